package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/IBM/sarama"
)

// saramaClient is github.com/IBM/sarama, with the protocol versions of Kafka's `version`.
type saramaClient struct {
	client  sarama.Client
	admin   sarama.ClusterAdmin
	version sarama.KafkaVersion
}

func saramaConfig(version sarama.KafkaVersion) *sarama.Config {
	config := sarama.NewConfig()
	config.Version = version
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Consumer.Return.Errors = true
	config.Consumer.MaxWaitTime = heartbeat // it waits for its fetch when it ends
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Group.Heartbeat.Interval = heartbeat
	return config
}

func newSarama(server string, version sarama.KafkaVersion) *saramaClient {
	client := got(sarama.NewClient([]string{server}, saramaConfig(version)))
	return &saramaClient{client, got(sarama.NewClusterAdminFromClient(client)), version}
}

func (s *saramaClient) addresses() (found []string) {
	for _, broker := range s.client.Brokers() {
		found = append(found, broker.Addr())
	}
	return found
}

func (s *saramaClient) close() { must(s.admin.Close()) }

// --- administration ---

func (s *saramaClient) nodes() (found []int32, err error) {
	brokers, _, err := s.admin.DescribeCluster()
	for _, broker := range brokers {
		found = append(found, broker.ID())
	}
	slices.Sort(found)
	return found, err
}

func (s *saramaClient) createTopic(topic string, partitions int32, configs map[string]string) error {
	values := map[string]*string{}
	for name, value := range configs {
		values[name] = &value
	}
	detail := &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1, ConfigEntries: values}
	if err := s.admin.CreateTopic(topic, detail, false); err != nil {
		return err
	}
	return s.client.RefreshMetadata(topic)
}

func (s *saramaClient) partitions(topic string) (int, error) {
	topics, err := s.admin.DescribeTopics([]string{topic})
	if err != nil {
		return 0, err
	}
	return len(topics[0].Partitions), nil
}

func (s *saramaClient) addPartitions(topic string, total int32) error {
	if err := s.admin.CreatePartitions(topic, total, nil, false); err != nil {
		return err
	}
	return s.client.RefreshMetadata(topic)
}

func (s *saramaClient) config(topic, name string) (string, error) {
	wanted := sarama.ConfigResource{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{name}}
	entries, err := s.admin.DescribeConfig(wanted)
	if err != nil {
		return "", err
	}
	return entries[0].Value, nil
}

func (s *saramaClient) alterConfig(topic, name, value string) error {
	set := sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}
	entries := map[string]sarama.IncrementalAlterConfigsEntry{name: set}
	return s.admin.IncrementalAlterConfig(sarama.TopicResource, topic, entries, false)
}

func (s *saramaClient) deleteRecords(topic string, partition int32, before int64) error {
	return s.admin.DeleteRecords(topic, map[int32]int64{partition: before})
}

func (s *saramaClient) deleteTopic(topic string) error { return s.admin.DeleteTopic(topic) }

// --- records ---

type saramaProducer struct{ producer sarama.SyncProducer }

func (s *saramaClient) producer(how writing) (producer, error) {
	codecs := map[string]sarama.CompressionCodec{
		"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
		"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
	}
	config := saramaConfig(s.version)
	config.Producer.RequiredAcks = sarama.RequiredAcks(how.acks)
	config.Producer.Compression = codecs[how.compression]
	config.Producer.Idempotent = how.idempotent
	if how.idempotent {
		config.Net.MaxOpenRequests = 1 // it asks for that
	}
	if how.maxBytes > 0 {
		config.Producer.MaxMessageBytes = how.maxBytes
	}
	producer, err := sarama.NewSyncProducer(s.addresses(), config)
	return saramaProducer{producer}, err
}

func (p saramaProducer) write(topic string, records ...record) error {
	var messages []*sarama.ProducerMessage
	for _, r := range records {
		made := &sarama.ProducerMessage{Topic: topic, Partition: r.partition, Timestamp: r.time}
		if r.key != nil {
			made.Key = sarama.ByteEncoder(r.key)
		}
		if r.value != nil {
			made.Value = sarama.ByteEncoder(r.value)
		}
		for _, h := range r.headers {
			made.Headers = append(made.Headers, sarama.RecordHeader{Key: []byte(h.key), Value: h.value})
		}
		messages = append(messages, made)
	}
	err := p.producer.SendMessages(messages)
	var all sarama.ProducerErrors
	if errors.As(err, &all) {
		return all[0].Err
	}
	return err
}

func (p saramaProducer) close() { must(p.producer.Close()) }

type saramaSource struct {
	consumer  sarama.Consumer
	partition sarama.PartitionConsumer
}

func (s *saramaClient) source(topic string, partition int32, offset int64) (source, error) {
	consumer, err := sarama.NewConsumerFromClient(s.client)
	if err != nil {
		return nil, err
	}
	from, err := consumer.ConsumePartition(topic, partition, offset) // earliest and latest are its numbers, too
	return saramaSource{consumer, from}, err
}

func (s saramaSource) next(ctx context.Context) (record, error) {
	select {
	case message := <-s.partition.Messages():
		return ofSarama(message), nil
	case err := <-s.partition.Errors():
		return record{}, err
	case <-ctx.Done():
		return record{}, ctx.Err()
	}
}

func (s saramaSource) close() {
	must(s.partition.Close())
	must(s.consumer.Close())
}

func ofSarama(m *sarama.ConsumerMessage) record {
	found := record{partition: m.Partition, offset: m.Offset, key: m.Key, value: m.Value, time: m.Timestamp}
	for _, h := range m.Headers {
		found.headers = append(found.headers, header{string(h.Key), h.Value})
	}
	return found
}

func (s *saramaClient) offsetAt(topic string, partition int32, at time.Time) (int64, error) {
	return s.client.GetOffset(topic, partition, at.UnixMilli())
}

func (s *saramaClient) offset(topic string, partition int32, which int64) (int64, error) {
	return s.client.GetOffset(topic, partition, which)
}

// --- groups ---

type saramaMember struct {
	group   sarama.ConsumerGroup
	records chan record
	stop    context.CancelFunc
	done    chan struct{}
}

func (s *saramaClient) join(group, topic string) (member, error) {
	joined, err := sarama.NewConsumerGroup(s.addresses(), group, saramaConfig(s.version))
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(background)
	m := &saramaMember{joined, make(chan record), stop, make(chan struct{})}
	go func() {
		for range joined.Errors() { // it goes on after them by itself
		}
	}()
	go func() {
		defer close(m.done)
		for ctx.Err() == nil {
			must(joined.Consume(ctx, []string{topic}, m)) // until the next rebalance
		}
	}()
	return m, nil
}

func (m *saramaMember) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (m *saramaMember) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (m *saramaMember) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			select {
			case m.records <- ofSarama(message):
				session.MarkMessage(message, "")
			case <-session.Context().Done():
				return nil
			}
		case <-session.Context().Done():
			return nil
		}
	}
}

func (m *saramaMember) next(ctx context.Context) (record, error) {
	select {
	case found := <-m.records:
		return found, nil
	case <-ctx.Done():
		return record{}, ctx.Err()
	}
}

func (m *saramaMember) close() {
	m.stop()
	<-m.done
	must(m.group.Close())
}

func (s *saramaClient) groups() (found []string, err error) {
	groups, err := s.admin.ListConsumerGroups()
	for group := range groups {
		found = append(found, group)
	}
	return found, err
}

func (s *saramaClient) describeGroup(group, topic string) (state string, shares []int, err error) {
	groups, err := s.admin.DescribeConsumerGroups([]string{group})
	if err != nil {
		return "", nil, err
	}
	for _, member := range groups[0].Members {
		share := 0
		if assigned, err := member.GetMemberAssignment(); err == nil && assigned != nil {
			share = len(assigned.Topics[topic])
		}
		shares = append(shares, share)
	}
	return groups[0].State, shares, nil
}

func (s *saramaClient) commit(group, topic string, partition int32, offset int64) error {
	offsets := map[string]map[int32]sarama.OffsetAndMetadata{topic: {partition: {Offset: offset, LeaderEpoch: -1}}}
	answer, err := s.admin.AlterConsumerGroupOffsets(group, offsets, nil)
	if err != nil {
		return err
	}
	if code := answer.Errors[topic][partition]; code != sarama.ErrNoError {
		return code
	}
	return nil
}

func (s *saramaClient) committed(group, topic string, partition int32) (int64, error) {
	answer, err := s.admin.ListConsumerGroupOffsets(group, map[string][]int32{topic: {partition}})
	if err != nil {
		return 0, err
	}
	return answer.GetBlock(topic, partition).Offset, nil
}

func (s *saramaClient) deleteOffset(group, topic string, partition int32) error {
	return s.admin.DeleteConsumerGroupOffset(group, topic, partition)
}

func (s *saramaClient) deleteGroup(group string) error { return s.admin.DeleteConsumerGroup(group) }

// --- what it can do, and what its errors mean ---

func (s *saramaClient) isIdempotent() bool { return true }

func (s *saramaClient) isTopicExists(err error) bool {
	return errors.Is(err, sarama.ErrTopicAlreadyExists)
}
func (s *saramaClient) isUnknownTopic(err error) bool {
	return errors.Is(err, sarama.ErrUnknownTopicOrPartition)
}
func (s *saramaClient) isTooLarge(err error) bool {
	return errors.Is(err, sarama.ErrMessageSizeTooLarge)
}
func (s *saramaClient) isGroupNotFound(err error) bool {
	return errors.Is(err, sarama.ErrGroupIDNotFound)
}
