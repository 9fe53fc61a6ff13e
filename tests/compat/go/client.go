package main

import (
	"context"
	"errors"
	"time"
)

const (
	earliest = int64(-2) // as an offset, in Kafka's numbers
	latest   = int64(-1)
)

const heartbeat = 300 * time.Millisecond

var everyCompression = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// errCannot: this library has no such call.
var errCannot = errors.New("the library cannot do that")

type header struct {
	key   string
	value []byte
}

type record struct {
	partition int32
	offset    int64
	key       []byte
	value     []byte
	headers   []header
	time      time.Time
}

// writing says how to write.
type writing struct {
	acks        int // 0, 1, or -1 for all
	compression string
	idempotent  bool
	maxBytes    int // of a batch
}

// producer is a library's producer. write waits until the records are acknowledged.
type producer interface {
	write(topic string, records ...record) error
	close()
}

// source gives the records of one partition, or those that a member of a group is given, one after the other.
type source interface {
	next(ctx context.Context) (record, error)
	close()
}

// member is a source that is in a group: what next has given is committed by the time that close returns.
type member source

// client is one library, with each of its calls that the tours need.
type client interface {
	nodes() ([]int32, error)
	createTopic(topic string, partitions int32, configs map[string]string) error
	partitions(topic string) (int, error)
	addPartitions(topic string, total int32) error
	config(topic, name string) (string, error)
	alterConfig(topic, name, value string) error
	deleteRecords(topic string, partition int32, before int64) error
	deleteTopic(topic string) error

	producer(how writing) (producer, error)
	source(topic string, partition int32, offset int64) (source, error)
	offsetAt(topic string, partition int32, at time.Time) (int64, error)
	offset(topic string, partition int32, which int64) (int64, error) // which: earliest or latest

	join(group, topic string) (member, error)
	groups() ([]string, error)
	describeGroup(group, topic string) (state string, shares []int, err error)
	commit(group, topic string, partition int32, offset int64) error
	committed(group, topic string, partition int32) (int64, error) // -1: nothing
	deleteOffset(group, topic string, partition int32) error
	deleteGroup(group string) error

	isIdempotent() bool // whether its producers can be
	// What its errors mean.
	isTopicExists(err error) bool
	isUnknownTopic(err error) bool
	isTooLarge(err error) bool
	isGroupNotFound(err error) bool
	close()
}
