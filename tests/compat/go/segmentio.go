package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
)

// segmentio is github.com/segmentio/kafka-go.
type segmentio struct {
	server string
	client *kafka.Client
}

func newSegmentio(server string) *segmentio {
	// It knows of new partitions no sooner.
	kafka.DefaultTransport.(*kafka.Transport).MetadataTTL = heartbeat
	return &segmentio{server, &kafka.Client{Addr: kafka.TCP(server), Timeout: patience}}
}

func (s *segmentio) close() {}

// --- administration ---

func (s *segmentio) nodes() (found []int32, err error) {
	metadata, err := s.client.Metadata(background, &kafka.MetadataRequest{})
	if err != nil {
		return nil, err
	}
	for _, broker := range metadata.Brokers {
		found = append(found, int32(broker.ID))
	}
	slices.Sort(found)
	return found, nil
}

func (s *segmentio) createTopic(topic string, partitions int32, configs map[string]string) error {
	wanted := kafka.TopicConfig{Topic: topic, NumPartitions: int(partitions), ReplicationFactor: 1}
	for name, value := range configs {
		wanted.ConfigEntries = append(wanted.ConfigEntries, kafka.ConfigEntry{ConfigName: name, ConfigValue: value})
	}
	answer, err := s.client.CreateTopics(background, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{wanted}})
	if err != nil {
		return err
	}
	return answer.Errors[topic]
}

func (s *segmentio) partitions(topic string) (int, error) {
	metadata, err := s.client.Metadata(background, &kafka.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return 0, err
	}
	return len(metadata.Topics[0].Partitions), metadata.Topics[0].Error
}

func (s *segmentio) addPartitions(topic string, total int32) error {
	wanted := []kafka.TopicPartitionsConfig{{Name: topic, Count: total}}
	answer, err := s.client.CreatePartitions(background, &kafka.CreatePartitionsRequest{Topics: wanted})
	if err != nil {
		return err
	}
	return answer.Errors[topic]
}

func (s *segmentio) config(topic, name string) (string, error) {
	wanted := []kafka.DescribeConfigRequestResource{
		{ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, ConfigNames: []string{name}},
	}
	answer, err := s.client.DescribeConfigs(background, &kafka.DescribeConfigsRequest{Resources: wanted})
	if err != nil {
		return "", err
	}
	return answer.Resources[0].ConfigEntries[0].ConfigValue, answer.Resources[0].Error
}

func (s *segmentio) alterConfig(topic, name, value string) error {
	wanted := []kafka.IncrementalAlterConfigsRequestResource{{
		ResourceType: kafka.ResourceTypeTopic,
		ResourceName: topic,
		Configs: []kafka.IncrementalAlterConfigsRequestConfig{
			{Name: name, Value: value, ConfigOperation: kafka.ConfigOperationSet},
		},
	}}
	request := &kafka.IncrementalAlterConfigsRequest{Resources: wanted}
	answer, err := s.client.IncrementalAlterConfigs(background, request)
	if err != nil {
		return err
	}
	return answer.Resources[0].Error
}

func (s *segmentio) deleteRecords(string, int32, int64) error { return errCannot }

func (s *segmentio) deleteTopic(topic string) error {
	answer, err := s.client.DeleteTopics(background, &kafka.DeleteTopicsRequest{Topics: []string{topic}})
	if err != nil {
		return err
	}
	return answer.Errors[topic]
}

// --- records ---

type segmentioProducer struct{ writer *kafka.Writer }

func (s *segmentio) producer(how writing) (producer, error) {
	codecs := map[string]kafka.Compression{
		"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
	}
	wanted := func(message kafka.Message, _ ...int) int { return message.WriterData.(int) }
	return segmentioProducer{&kafka.Writer{
		Addr: kafka.TCP(s.server), RequiredAcks: kafka.RequiredAcks(how.acks), Compression: codecs[how.compression],
		BatchBytes: int64(how.maxBytes), BatchTimeout: time.Millisecond, Balancer: kafka.BalancerFunc(wanted),
	}}, nil
}

func (p segmentioProducer) write(topic string, records ...record) error {
	var messages []kafka.Message
	for _, r := range records {
		made := kafka.Message{Topic: topic, Key: r.key, Value: r.value, Time: r.time, WriterData: int(r.partition)}
		for _, h := range r.headers {
			made.Headers = append(made.Headers, kafka.Header{Key: h.key, Value: h.value})
		}
		messages = append(messages, made)
	}
	err := p.writer.WriteMessages(background, messages...)
	var all kafka.WriteErrors
	if errors.As(err, &all) {
		return errors.Join(all...)
	}
	return err
}

func (p segmentioProducer) close() { must(p.writer.Close()) }

// segmentioSource also serves as a member.
type segmentioSource struct {
	reader *kafka.Reader
}

func (s *segmentio) source(topic string, partition int32, offset int64) (source, error) {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{s.server}, Topic: topic, Partition: int(partition), MaxWait: heartbeat,
	})
	return &segmentioSource{reader}, reader.SetOffset(offset) // earliest and latest are its numbers, too
}

func (s *segmentioSource) next(ctx context.Context) (record, error) {
	m, err := s.reader.ReadMessage(ctx) // as a member it commits, too
	if err != nil {
		return record{}, err
	}
	found := record{partition: int32(m.Partition), offset: m.Offset, key: m.Key, value: m.Value, time: m.Time}
	for _, h := range m.Headers {
		found.headers = append(found.headers, header{h.Key, h.Value})
	}
	return found, nil
}

func (s *segmentioSource) close() { must(s.reader.Close()) }

func (s *segmentio) offsetAt(topic string, partition int32, at time.Time) (int64, error) {
	found, err := s.listed(topic, kafka.TimeOffsetOf(int(partition), at))
	for offset := range found.Offsets {
		return offset, err
	}
	return -1, err
}

func (s *segmentio) offset(topic string, partition int32, which int64) (int64, error) {
	if which == earliest {
		found, err := s.listed(topic, kafka.FirstOffsetOf(int(partition)))
		return found.FirstOffset, err
	}
	found, err := s.listed(topic, kafka.LastOffsetOf(int(partition)))
	return found.LastOffset, err
}

func (s *segmentio) listed(topic string, wanted kafka.OffsetRequest) (kafka.PartitionOffsets, error) {
	request := &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: {wanted}}}
	answer, err := s.client.ListOffsets(background, request)
	if err != nil {
		return kafka.PartitionOffsets{}, err
	}
	return answer.Topics[topic][0], answer.Topics[topic][0].Error
}

// --- groups ---

func (s *segmentio) join(group, topic string) (member, error) {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{s.server}, GroupID: group, Topic: topic, StartOffset: kafka.FirstOffset,
		MaxWait: heartbeat, HeartbeatInterval: heartbeat,
	})
	return &segmentioSource{reader}, nil
}

func (s *segmentio) groups() (found []string, err error) {
	answer, err := s.client.ListGroups(background, &kafka.ListGroupsRequest{})
	if err != nil {
		return nil, err
	}
	for _, group := range answer.Groups {
		found = append(found, group.GroupID)
	}
	return found, answer.Error
}

func (s *segmentio) describeGroup(group, topic string) (state string, shares []int, err error) {
	answer, err := s.client.DescribeGroups(background, &kafka.DescribeGroupsRequest{GroupIDs: []string{group}})
	if err != nil {
		return "", nil, err
	}
	for _, member := range answer.Groups[0].Members {
		share := 0
		for _, assigned := range member.MemberAssignments.Topics {
			share += len(assigned.Partitions)
		}
		shares = append(shares, share)
	}
	return answer.Groups[0].GroupState, shares, answer.Groups[0].Error
}

func (s *segmentio) commit(group, topic string, partition int32, offset int64) error {
	wanted := map[string][]kafka.OffsetCommit{topic: {{Partition: int(partition), Offset: offset}}}
	request := &kafka.OffsetCommitRequest{GroupID: group, GenerationID: -1, Topics: wanted}
	answer, err := s.client.OffsetCommit(background, request)
	if err != nil {
		return err
	}
	return answer.Topics[topic][0].Error
}

func (s *segmentio) committed(group, topic string, partition int32) (int64, error) {
	request := &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: {int(partition)}}}
	answer, err := s.client.OffsetFetch(background, request)
	if err != nil {
		return 0, err
	}
	return answer.Topics[topic][0].CommittedOffset, errors.Join(answer.Error, answer.Topics[topic][0].Error)
}

func (s *segmentio) deleteOffset(group, topic string, partition int32) error {
	request := &kafka.OffsetDeleteRequest{GroupID: group, Topics: map[string][]int{topic: {int(partition)}}}
	answer, err := s.client.OffsetDelete(background, request)
	if err != nil {
		return err
	}
	return errors.Join(answer.Error, answer.Topics[topic][0].Error)
}

func (s *segmentio) deleteGroup(group string) error {
	answer, err := s.client.DeleteGroups(background, &kafka.DeleteGroupsRequest{GroupIDs: []string{group}})
	if err != nil {
		return err
	}
	return answer.Errors[group]
}

// --- what it can do, and what its errors mean ---

func (s *segmentio) isIdempotent() bool { return false }

func (s *segmentio) isTopicExists(err error) bool { return errors.Is(err, kafka.TopicAlreadyExists) }
func (s *segmentio) isUnknownTopic(err error) bool {
	return errors.Is(err, kafka.UnknownTopicOrPartition)
}
func (s *segmentio) isTooLarge(err error) bool      { return errors.Is(err, kafka.MessageSizeTooLarge) }
func (s *segmentio) isGroupNotFound(err error) bool { return errors.Is(err, kafka.GroupIdNotFound) }
