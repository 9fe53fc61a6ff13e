package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"time"
)

// large writes large values as the first request of a connection, then again when a line comes in: a worker has died
// meanwhile, so that the connection is another one. What is lost in between is for its user to send again.
func large(c client, topic string) seen {
	sizes := []int{70_000, 200_000, 900_000}
	must(c.createTopic(topic, 1, nil))
	producer := got(c.producer(writing{acks: -1, compression: "none"}))
	var sent []int
	write := func() {
		for _, size := range sizes {
			deadline := time.Now().Add(30 * time.Second)
			for {
				err := producer.write(topic, record{value: bytes.Repeat([]byte("x"), size)})
				if err == nil {
					break
				}
				if time.Now().After(deadline) {
					panic(err)
				}
				time.Sleep(100 * time.Millisecond)
			}
			sent = append(sent, size)
		}
	}
	write()
	fmt.Println("ready")
	got(bufio.NewReader(os.Stdin).ReadString('\n'))
	write()
	producer.close()
	return seen{"sent": sent}
}
