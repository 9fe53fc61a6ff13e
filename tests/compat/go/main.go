// Kafka clients for Go, each with what its users do. Arguments: library, what to run, bootstrap server, topic.
// The last line of the output is what was seen, as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/IBM/sarama"
)

// seen is what a run has found, by name.
type seen map[string]any

var libraries = map[string]func(server string) client{
	"franz-go":          func(server string) client { return newFranz(server, false) },
	"franz-go-consumer": func(server string) client { return newFranz(server, true) }, // groups of KIP-848
	"sarama":            func(server string) client { return newSarama(server, sarama.MaxVersion) },
	"sarama-default":    func(server string) client { return newSarama(server, sarama.DefaultVersion) }, // asks no versions
	"kafka-go":          func(server string) client { return newSegmentio(server) },
}

var runs = map[string]func(client, string) seen{"tour": tour, "copy": copied, "groups": groups, "steady": steady, "large": large}

func main() {
	library := libraries[os.Args[1]](os.Args[3])
	found := runs[os.Args[2]](library, os.Args[4])
	library.close()
	text, err := json.Marshal(found)
	must(err)
	fmt.Println(string(text))
}

// must ends the program with an error that nobody expected.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func got[T any](value T, err error) T {
	must(err)
	return value
}
