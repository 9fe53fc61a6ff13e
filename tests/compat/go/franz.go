package main

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// franz is github.com/twmb/franz-go, with its package kadm.
type franz struct {
	server     string
	isConsumer bool // its groups are of KIP-848
	admin      *kadm.Client
}

var background = context.Background()

func newFranz(server string, isConsumer bool) *franz {
	f := &franz{server: server, isConsumer: isConsumer}
	f.admin = kadm.NewClient(got(f.connect()))
	return f
}

func (f *franz) connect(options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(options, kgo.SeedBrokers(f.server))...)
}

func (f *franz) close() { f.admin.Close() }

// --- administration ---

func (f *franz) nodes() (found []int32, err error) {
	metadata, err := f.admin.BrokerMetadata(background)
	return metadata.Brokers.NodeIDs(), err
}

func (f *franz) createTopic(topic string, partitions int32, configs map[string]string) error {
	values := map[string]*string{}
	for name, value := range configs {
		values[name] = &value
	}
	created, err := f.admin.CreateTopic(background, partitions, 1, values, topic)
	return errors.Join(err, created.Err)
}

func (f *franz) partitions(topic string) (int, error) {
	topics, err := f.admin.ListTopics(background, topic)
	return len(topics[topic].Partitions), errors.Join(err, topics[topic].Err)
}

func (f *franz) addPartitions(topic string, total int32) error {
	answers, err := f.admin.UpdatePartitions(background, int(total), topic)
	return errors.Join(err, answers.Error())
}

func (f *franz) config(topic, name string) (string, error) {
	resources, err := f.admin.DescribeTopicConfigs(background, topic)
	if err != nil {
		return "", err
	}
	resource, err := resources.On(topic, nil)
	for _, config := range resource.Configs {
		if config.Key == name {
			return config.MaybeValue(), errors.Join(err, resource.Err)
		}
	}
	return "", errors.Join(err, resource.Err)
}

func (f *franz) alterConfig(topic, name, value string) error {
	change := kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: &value}
	answers, err := f.admin.AlterTopicConfigs(background, []kadm.AlterConfig{change}, topic)
	if err != nil {
		return err
	}
	answer, err := answers.On(topic, nil)
	return errors.Join(err, answer.Err)
}

func (f *franz) deleteRecords(topic string, partition int32, before int64) error {
	var offsets kadm.Offsets
	offsets.AddOffset(topic, partition, before, -1)
	answers, err := f.admin.DeleteRecords(background, offsets)
	return errors.Join(err, answers.Error())
}

func (f *franz) deleteTopic(topic string) error {
	answer, err := f.admin.DeleteTopic(background, topic)
	return errors.Join(err, answer.Err)
}

// --- records ---

type franzProducer struct{ client *kgo.Client }

func (f *franz) producer(how writing) (producer, error) {
	acks := map[int]kgo.Acks{0: kgo.NoAck(), 1: kgo.LeaderAck(), -1: kgo.AllISRAcks()}
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	options := []kgo.Opt{
		kgo.RequiredAcks(acks[how.acks]), kgo.ProducerBatchCompression(codecs[how.compression]),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	}
	if !how.idempotent {
		options = append(options, kgo.DisableIdempotentWrite())
	}
	if how.maxBytes > 0 {
		options = append(options, kgo.ProducerBatchMaxBytes(int32(how.maxBytes)))
	}
	client, err := f.connect(options...)
	return franzProducer{client}, err
}

func (p franzProducer) write(topic string, records ...record) error {
	var wanted []*kgo.Record
	for _, r := range records {
		made := &kgo.Record{Topic: topic, Partition: r.partition, Key: r.key, Value: r.value, Timestamp: r.time}
		for _, h := range r.headers {
			made.Headers = append(made.Headers, kgo.RecordHeader{Key: h.key, Value: h.value})
		}
		wanted = append(wanted, made)
	}
	return p.client.ProduceSync(background, wanted...).FirstErr()
}

func (p franzProducer) close() { p.client.Close() }

// franzSource also serves as a member.
type franzSource struct {
	client *kgo.Client
	ready  []*kgo.Record
}

func (f *franz) source(topic string, partition int32, offset int64) (source, error) {
	from := kgo.NewOffset().At(offset)
	switch offset {
	case earliest:
		from = kgo.NewOffset().AtStart()
	case latest:
		from = kgo.NewOffset().AtEnd()
	}
	wanted := map[string]map[int32]kgo.Offset{topic: {partition: from}}
	client, err := f.connect(kgo.ConsumePartitions(wanted))
	return &franzSource{client: client}, err
}

func (s *franzSource) next(ctx context.Context) (record, error) {
	for len(s.ready) == 0 {
		fetches := s.client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return record{}, err
		}
		s.ready = fetches.Records()
	}
	r := s.ready[0]
	s.ready = s.ready[1:]
	s.client.MarkCommitRecords(r)
	found := record{
		partition: r.Partition, offset: r.Offset, key: r.Key, value: r.Value, time: r.Timestamp,
	}
	for _, h := range r.Headers {
		found.headers = append(found.headers, header{h.Key, h.Value})
	}
	return found, nil
}

func (s *franzSource) close() {
	if group, _ := s.client.GroupMetadata(); group != "" {
		must(s.client.CommitMarkedOffsets(background))
	}
	s.client.Close()
}

func (f *franz) offsetAt(topic string, partition int32, at time.Time) (int64, error) {
	offsets, err := f.admin.ListOffsetsAfterMilli(background, at.UnixMilli(), topic)
	offset, _ := offsets.Lookup(topic, partition)
	return offset.Offset, errors.Join(err, offset.Err)
}

func (f *franz) offset(topic string, partition int32, which int64) (int64, error) {
	list := f.admin.ListEndOffsets
	if which == earliest {
		list = f.admin.ListStartOffsets
	}
	offsets, err := list(background, topic)
	offset, _ := offsets.Lookup(topic, partition)
	return offset.Offset, errors.Join(err, offset.Err)
}

// --- groups ---

func (f *franz) join(group, topic string) (member, error) {
	options := []kgo.Opt{
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.AutoCommitMarks(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(heartbeat),
	}
	if f.isConsumer {
		options = append(options, kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()))
	}
	client, err := f.connect(options...)
	return &franzSource{client: client}, err
}

func (f *franz) groups() ([]string, error) {
	groups, err := f.admin.ListGroups(background)
	return groups.Groups(), err
}

func (f *franz) describeGroup(group, topic string) (state string, shares []int, err error) {
	if f.isConsumer {
		groups, err := f.admin.DescribeConsumerGroups(background, group)
		for _, member := range groups[group].Members {
			shares = append(shares, len(member.Assignment[topic]))
		}
		return groups[group].State, shares, errors.Join(err, groups[group].Err)
	}
	groups, err := f.admin.DescribeGroups(background, group)
	for _, member := range groups[group].Members {
		share := 0
		if assigned, ok := member.Assigned.AsConsumer(); ok {
			for _, owned := range assigned.Topics {
				share += len(owned.Partitions)
			}
		}
		shares = append(shares, share)
	}
	return groups[group].State, shares, errors.Join(err, groups[group].Err)
}

func (f *franz) commit(group, topic string, partition int32, offset int64) error {
	var offsets kadm.Offsets
	offsets.AddOffset(topic, partition, offset, -1)
	return f.admin.CommitAllOffsets(background, group, offsets)
}

func (f *franz) committed(group, topic string, partition int32) (int64, error) {
	offsets, err := f.admin.FetchOffsetsForTopics(background, group, topic)
	found, _ := offsets.Lookup(topic, partition)
	return found.At, errors.Join(err, found.Err)
}

func (f *franz) deleteOffset(group, topic string, partition int32) error {
	answers, err := f.admin.DeleteOffsets(background, group, kadm.TopicsSet{topic: {partition: {}}})
	return errors.Join(err, answers.Error())
}

func (f *franz) deleteGroup(group string) error {
	answer, err := f.admin.DeleteGroup(background, group)
	return errors.Join(err, answer.Err)
}

// --- what it can do, and what its errors mean ---

func (f *franz) isIdempotent() bool { return true }

func (f *franz) isTopicExists(err error) bool   { return errors.Is(err, kerr.TopicAlreadyExists) }
func (f *franz) isUnknownTopic(err error) bool  { return errors.Is(err, kerr.UnknownTopicOrPartition) }
func (f *franz) isTooLarge(err error) bool      { return errors.Is(err, kerr.MessageTooLarge) }
func (f *franz) isGroupNotFound(err error) bool { return errors.Is(err, kerr.GroupIDNotFound) }
