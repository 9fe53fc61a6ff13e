package main

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
)

const partitions = 4

// groups: two members share the work, one leaves, another goes on where they were; and what administrators do.
func groups(c client, topic string) seen {
	found := seen{}
	must(c.createTopic(topic, partitions, nil))
	group := topic + ".members"
	work := &work{client: c, topic: topic, group: group, seen: map[string]int{}}
	one, two := work.start(), work.start()
	work.settle([]int{2, 2})
	work.add(10)
	found["shared"] = work.once()
	found["listed"] = slices.Contains(got(c.groups()), group)
	one()
	work.settle([]int{4})
	work.add(10)
	found["taken over"] = work.once()
	two() // commits
	for partition := range int32(partitions) {
		if end := got(c.offset(topic, partition, latest)); got(c.committed(group, topic, partition)) != end {
			found["not committed"] = partition
		}
	}
	work.add(10)
	three := work.start()
	found["resumed"] = work.once()
	three()
	must(c.deleteGroup(group))
	found["deletedAgain"] = c.isGroupNotFound(c.deleteGroup(group))

	alone := topic + ".alone"
	must(c.commit(alone, topic, 0, 7))
	found["committed alone"] = []int64{got(c.committed(alone, topic, 0)), got(c.committed(alone, topic, 1))}
	must(c.deleteOffset(alone, topic, 0))
	found["after deletion"] = got(c.committed(alone, topic, 0))
	must(c.deleteGroup(alone))
	must(c.deleteTopic(topic))
	return found
}

// work is what the members of a group have to read, and how often each record was read.
type work struct {
	client       client
	topic, group string
	written      int

	lock sync.Mutex
	seen map[string]int
}

// add writes that many records to each partition.
func (w *work) add(count int) {
	p := got(w.client.producer(writing{acks: -1, compression: "none"}))
	defer p.close()
	for number := range count {
		for partition := range int32(partitions) {
			must(p.write(w.topic, record{partition: partition, value: fmt.Append(nil, number)}))
		}
	}
	w.written += count * partitions
}

// start begins to read as a member; what it returns ends that.
func (w *work) start() (end func()) {
	m := got(w.client.join(w.group, w.topic))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			record, err := m.next(ctx)
			if ctx.Err() != nil {
				return
			}
			must(err)
			w.lock.Lock()
			w.seen[fmt.Sprint(record.partition, "@", record.offset)]++
			w.lock.Unlock()
		}
	}()
	return func() {
		cancel()
		<-done
		m.close()
	}
}

// settle waits until the members own that many partitions each.
func (w *work) settle(shares []int) {
	until(fmt.Sprintf("members own %v", shares), func() bool {
		state, found, err := w.client.describeGroup(w.group, w.topic)
		if w.client.isGroupNotFound(err) {
			return false // nobody has joined yet
		}
		must(err)
		slices.Sort(found)
		return state == "Stable" && reflect.DeepEqual(found, shares)
	})
}

// once waits until everything was read, and tells whether each record was read no more than once.
func (w *work) once() bool {
	until("everything is read", func() bool {
		w.lock.Lock()
		defer w.lock.Unlock()
		return len(w.seen) == w.written
	})
	w.lock.Lock()
	defer w.lock.Unlock()
	for _, times := range w.seen {
		if times > 1 {
			return false
		}
	}
	return true
}
