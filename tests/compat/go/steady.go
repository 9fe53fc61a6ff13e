package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	writers = 3   // at a time, each its own records one after the other
	more    = 100 // records of each, before and after what happens to the broker
)

// steady writes and reads all the time. It says "ready", waits for a line that tells that something has happened to the
// broker, goes on for a while, and tells which records were lost, and which were there twice.
func steady(c client, topic string) seen {
	must(c.createTopic(topic, writers, nil))
	reader := got(c.join(topic+".members", topic))
	ctx, cancel := context.WithCancel(context.Background())
	var lock sync.Mutex
	places := map[string]map[int64]bool{} // where a value was seen
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			record, err := reader.next(ctx)
			if ctx.Err() != nil {
				return
			}
			must(err)
			lock.Lock()
			if places[string(record.value)] == nil {
				places[string(record.value)] = map[int64]bool{}
			}
			places[string(record.value)][record.offset] = true
			lock.Unlock()
		}
	}()

	p := got(c.producer(writing{acks: -1, compression: "none", idempotent: c.isIdempotent()}))
	var stop atomic.Bool
	var ready, writing sync.WaitGroup
	counts := make([]int, writers)
	for writer := range writers {
		ready.Add(1)
		writing.Add(1)
		go func() {
			defer writing.Done()
			for left := more; left > 0; counts[writer]++ {
				must(p.write(topic, record{partition: int32(writer), value: fmt.Appendf(nil, "%d/%d", writer, counts[writer])}))
				if counts[writer] == more {
					ready.Done()
				}
				if stop.Load() {
					left--
				}
			}
		}()
	}
	ready.Wait()
	fmt.Println("ready")
	_, err := bufio.NewReader(os.Stdin).ReadString('\n')
	must(err)
	stop.Store(true)
	writing.Wait()
	p.close()

	written, lost, doubled := 0, []string{}, []string{}
	for _, count := range counts {
		written += count
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		lock.Lock()
		all := len(places) == written
		lock.Unlock()
		if all {
			break
		}
	}
	cancel()
	<-done
	reader.close()
	for writer, count := range counts {
		for number := range count {
			switch value := fmt.Sprintf("%d/%d", writer, number); len(places[value]) {
			case 0:
				lost = append(lost, value)
			case 1:
			default:
				doubled = append(doubled, value)
			}
		}
	}
	return seen{"written": written, "lost": lost, "doubled": doubled}
}
