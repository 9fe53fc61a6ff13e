package main

// copied reads what a topic's first partition holds, and writes it into another topic.
func copied(c client, topic string) seen {
	copyTopic := topic + ".copy"
	must(c.createTopic(copyTopic, 1, nil))
	found := read(c, topic, 0, earliest, int(got(c.offset(topic, 0, latest))))
	p := got(c.producer(writing{acks: -1, compression: "none"}))
	must(p.write(copyTopic, found...))
	p.close()
	return seen{"copied": len(found)}
}
