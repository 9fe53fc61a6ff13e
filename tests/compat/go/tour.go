package main

import (
	"bytes"
	"context"
	"fmt"
	"time"
)

const (
	patience  = 20 * time.Second // for whatever is waited for
	batchMost = 20 << 20         // as a producer's own limit: then the broker's is met first
)

// tour administers, produces and consumes, without groups.
func tour(c client, topic string) seen {
	found := seen{}
	configs := map[string]string{"retention.ms": "7000000"}
	must(c.createTopic(topic, 2, configs))
	found["createdAgain"] = c.isTopicExists(c.createTopic(topic, 2, nil))
	found["nodes"] = got(c.nodes())
	found["retention"] = got(c.config(topic, "retention.ms"))
	must(c.alterConfig(topic, "retention.ms", "8000000"))
	found["altered"] = got(c.config(topic, "retention.ms"))
	must(c.addPartitions(topic, 3))
	until("there are 3 partitions", func() bool { return got(c.partitions(topic)) == 3 })

	found["written"], found["differences"] = everyWay(c, topic)
	found["sizes"], found["tooLarge"] = sizes(c, topic)
	found["atTime"], found["fromOffset"], found["fromEnd"] = places(c, topic)
	found["afterDeletion"] = deletion(c, topic)

	must(c.deleteTopic(topic))
	found["deletedAgain"] = c.isUnknownTopic(c.deleteTopic(topic))
	return found
}

// everyWay writes with each kind of acks and each compression, and reads everything back.
func everyWay(c client, topic string) (written int, differences []string) {
	var sent []record
	for _, how := range ways(c) {
		now := time.UnixMilli(time.Now().UnixMilli())
		records := []record{
			{key: []byte("k"), value: []byte("v"), headers: []header{{"one", []byte("1")}, {"two", []byte("2")}}, time: now},
			{value: []byte("no key"), time: now.Add(-time.Second)},
			{key: []byte("no value"), time: now},
			{value: bytes.Repeat([]byte("x"), 100_000), time: now},
		}
		p := got(c.producer(how))
		must(p.write(topic, records...))
		p.close()
		sent = append(sent, records...)
		// What was sent with acks 0 is on its way: the next batch, on another connection, must not overtake it.
		until("it is written", func() bool { return got(c.offset(topic, 0, latest)) == int64(len(sent)) })
	}
	differences = []string{}
	for number, record := range read(c, topic, 0, earliest, len(sent)) {
		if expected := sent[number]; !same(expected, record) || record.offset != int64(number) {
			differences = append(differences, fmt.Sprintf("%d: %.100v is not %.100v", number, record, expected))
		}
	}
	return len(sent), differences
}

func ways(c client) (found []writing) {
	for _, compression := range everyCompression {
		for _, acks := range []int{0, 1, -1} {
			found = append(found, writing{acks: acks, compression: compression})
		}
		if c.isIdempotent() {
			found = append(found, writing{acks: -1, compression: compression, idempotent: true})
		}
	}
	return found
}

func same(a, b record) bool {
	if len(a.headers) != len(b.headers) {
		return false
	}
	for number, header := range a.headers {
		if header.key != b.headers[number].key || !bytes.Equal(header.value, b.headers[number].value) {
			return false
		}
	}
	keys := bytes.Equal(a.key, b.key) && (a.key == nil) == (b.key == nil)
	values := bytes.Equal(a.value, b.value) && (a.value == nil) == (b.value == nil)
	return keys && values && a.time.Equal(b.time)
}

// sizes writes small and large records; one that is larger than the broker takes must not hinder the next.
func sizes(c client, topic string) (arrived []int, tooLarge bool) {
	p := got(c.producer(writing{acks: -1, compression: "none", maxBytes: batchMost}))
	defer p.close()
	wanted := []int{1, 1_000, 900_000}
	for _, size := range wanted {
		must(p.write(topic, record{partition: 1, value: make([]byte, size)}))
	}
	tooLarge = c.isTooLarge(p.write(topic, record{partition: 1, value: make([]byte, 2_000_000)}))
	must(p.write(topic, record{partition: 1, value: []byte("after")}))
	for _, record := range read(c, topic, 1, earliest, len(wanted)+1) {
		arrived = append(arrived, len(record.value))
	}
	return arrived, tooLarge
}

// places reads from a time, from an offset, and from the end on.
func places(c client, topic string) (atTime int64, fromOffset, fromEnd string) {
	p := got(c.producer(writing{acks: -1, compression: "none"}))
	defer p.close()
	start := time.UnixMilli(time.Now().UnixMilli() - 60_000)
	for number := range 10 {
		at := start.Add(time.Duration(number) * time.Second)
		must(p.write(topic, record{partition: 2, value: fmt.Append(nil, number), time: at}))
	}
	atTime = got(c.offsetAt(topic, 2, start.Add(4500*time.Millisecond)))
	fromOffset = string(read(c, topic, 2, 7, 1)[0].value)

	tail := got(c.source(topic, 2, latest))
	defer tail.close()
	first := make(chan record)
	go func() { first <- next(tail) }()
	for {
		// When the source has found the end is not said: so there is always one more.
		must(p.write(topic, record{partition: 2, value: []byte("live")}))
		select {
		case record := <-first:
			return atTime, fromOffset, string(record.value)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// deletion: where the partition starts when the first records were deleted; nil where the library cannot do that.
func deletion(c client, topic string) any {
	err := c.deleteRecords(topic, 2, 5)
	if err == errCannot {
		return nil
	}
	must(err)
	return []any{got(c.offset(topic, 2, earliest)), read(c, topic, 2, earliest, 1)[0].offset}
}

// read returns that many records.
func read(c client, topic string, partition int32, offset int64, count int) (found []record) {
	from := got(c.source(topic, partition, offset))
	defer from.close()
	for range count {
		found = append(found, next(from))
	}
	return found
}

// until looks again and again until the condition holds.
func until(what string, holds func() bool) {
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			panic("this did not come true: " + what)
		}
	}
}

func next(from source) record {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return got(from.next(ctx))
}
