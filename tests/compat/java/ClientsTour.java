import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.regex.Pattern;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Producers and consumers as Java applications use them: {@code ClientsTour SERVERS PREFIX}. */
final class ClientsTour extends Tour {
    private ClientsTour(String servers, String prefix) {
        super(servers, prefix);
    }

    public static void main(String[] arguments) throws Exception {
        ClientsTour tour = new ClientsTour(arguments[0], arguments[1]);
        tour.producers();
        tour.positions();
        for (String protocol : List.of("classic", "cooperative", "consumer")) tour.groups(protocol);
        tour.groupsWithPatterns();
        tour.transactions();
    }

    // --- producers ---

    private void producers() throws Exception {
        String topic = create("produced", 3);
        try (KafkaProducer<String, String> producer = producer(Map.of())) {
            step("partitionsFor", () -> producer.partitionsFor(topic).size());
            step("callbacks", () -> {
                AtomicInteger called = new AtomicInteger();
                for (int i = 0; i < 300; i++) {
                    producer.send(new ProducerRecord<>(topic, 0, "k" + i, "v" + i), (metadata, error) -> {
                        if (error == null && metadata.offset() == called.get()) called.incrementAndGet();
                    });
                }
                producer.flush();
                return called.get();
            });
            step("null key, null value, headers", () -> {
                ProducerRecord<String, String> odd =
                        new ProducerRecord<>(topic, 1, 1_700_000_000_000L, null, null, List.of());
                odd.headers()
                        .add("a", "1".getBytes(StandardCharsets.UTF_8))
                        .add("a", null)
                        .add("", new byte[0]);
                RecordMetadata metadata = producer.send(odd).get();
                return metadata.offset() + " " + metadata.timestamp() + " " + metadata.serializedKeySize();
            });
            step("larger than max.request.size", () -> producer.send(record(topic, "x".repeat(2_000_000)))
                    .get());
            step("a topic's name that cannot be", () -> producer.send(record("a/b", ""))
                    .get());
            step("producer close", () -> timed(producer::close));
        }
        try (KafkaProducer<String, String> producer = producer(Map.of("max.block.ms", 1_000))) {
            step("a partition that is not there", () -> producer.send(new ProducerRecord<>(topic, 9, "", ""))
                    .get());
        }
        try (KafkaProducer<String, String> producer = producer(Map.of("max.request.size", 9_000_000))) {
            step("larger than message.max.bytes", () -> producer.send(record(topic, "x".repeat(2_000_000)))
                    .get());
            step("and the next one", () -> producer.send(new ProducerRecord<>(topic, 1, "", "fits"))
                    .get()
                    .offset());
        }
        for (String acks : List.of("0", "1")) {
            try (KafkaProducer<String, String> producer = producer(Map.of("acks", acks, "enable.idempotence", false))) {
                step("acks=" + acks, () -> producer.send(new ProducerRecord<>(topic, 2, "", acks))
                        .get()
                        .hasOffset());
            }
        }
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            String packed = create("packed." + codec, 1);
            try (KafkaProducer<String, String> producer =
                    producer(Map.of("compression.type", codec, "linger.ms", 20))) {
                for (int i = 0; i < 500; i++) producer.send(record(packed, "value-" + i + "-" + "x".repeat(i)));
            }
            try (KafkaConsumer<String, String> consumer = consumer(Map.of())) {
                consumer.assign(List.of(new TopicPartition(packed, 0)));
                consumer.seekToBeginning(consumer.assignment());
                step("compression " + codec, () -> {
                    List<ConsumerRecord<String, String>> read = poll(consumer, 500);
                    int right = 0;
                    for (int i = 0; i < read.size(); i++) {
                        if (read.get(i).value().equals("value-" + i + "-" + "x".repeat(i))) right++;
                    }
                    return read.size() + " " + right;
                });
            }
        }
        String compact = create("compact", 1, "cleanup.policy", "compact");
        try (KafkaProducer<String, String> producer = producer(Map.of())) {
            step("no key on a compacted topic", () -> producer.send(record(compact, "v"))
                    .get());
            step(
                    "a topic made by sending",
                    () -> producer.send(record(prefix + "auto", "v")).get().offset());
        }
    }

    // --- consumers without a group ---

    private void positions() throws Exception {
        String topic = create("positions", 2);
        long start = 1_700_000_000_000L;
        try (KafkaProducer<String, String> producer = producer(Map.of())) {
            for (int i = 0; i < 100; i++) {
                producer.send(new ProducerRecord<>(topic, 0, start + i * 1000L, "k" + i, "v" + i));
            }
        }
        TopicPartition first = new TopicPartition(topic, 0);
        TopicPartition empty = new TopicPartition(topic, 1);
        for (String isolation : List.of("read_uncommitted", "read_committed")) {
            try (KafkaConsumer<String, String> consumer = consumer(Map.of("isolation.level", isolation))) {
                consumer.assign(List.of(first, empty));
                step("beginningOffsets", () -> sorted(consumer.beginningOffsets(List.of(first, empty))));
                step("endOffsets", () -> sorted(consumer.endOffsets(List.of(first, empty))));
                step(
                        "offsetsForTimes",
                        () -> sorted(consumer.offsetsForTimes(Map.of(first, start + 41_500, empty, start))));
                step(
                        "offsetsForTimes past the end",
                        () -> sorted(consumer.offsetsForTimes(Map.of(first, start + 1_000_000))));
                consumer.seek(first, 90);
                step("seek", () -> poll(consumer, 10).get(0).value() + " " + consumer.position(first));
                step("currentLag", () -> consumer.currentLag(first).getAsLong());
                consumer.seek(first, new OffsetAndMetadata(50));
                consumer.pause(List.of(first));
                step("paused", () -> consumer.poll(Duration.ofMillis(300)).count() + " " + consumer.position(first));
                consumer.resume(List.of(first));
                step("resumed", () -> poll(consumer, 50).size());
                consumer.seek(first, 1_000);
                step(
                        "out of range, reset to earliest",
                        () -> poll(consumer, 1).get(0).offset());
                step("committed without a group", () -> consumer.committed(Set.of(first)));
                step("listTopics", () -> consumer.listTopics().containsKey(topic));
                step(
                        "a partition that is not there",
                        () -> consumer.endOffsets(List.of(new TopicPartition(topic, 7)), Duration.ofSeconds(1)));
                step("wakeup", () -> {
                    consumer.seekToEnd(consumer.assignment());
                    Thread waker = new Thread(() -> {
                        try {
                            Thread.sleep(300);
                        } catch (InterruptedException ended) {
                            return;
                        }
                        consumer.wakeup();
                    });
                    waker.start();
                    return consumer.poll(Duration.ofSeconds(60)).count();
                });
                step("consumer close", () -> timed(consumer::close));
            }
        }
        try (KafkaConsumer<String, String> consumer = consumer(Map.of("auto.offset.reset", "none"))) {
            consumer.assign(List.of(first));
            step("nowhere to begin", () -> consumer.poll(Duration.ofSeconds(5)).count());
            consumer.seek(first, 1_000);
            step("out of range", () -> poll(consumer, 1));
        }
        try (KafkaConsumer<String, String> consumer = consumer(Map.of("auto.offset.reset", "by_duration:P20000D"))) {
            consumer.assign(List.of(first));
            step("reset by duration", () -> consumer.position(first));
        }
        try (KafkaConsumer<String, String> consumer = consumer(Map.of("allow.auto.create.topics", false))) {
            step("no topic without creation", () -> consumer.partitionsFor(prefix + "none", Duration.ofSeconds(5))
                    .size());
        }
        try (KafkaConsumer<String, String> consumer =
                consumer(Map.of("group.id", prefix + "simple", "enable.auto.commit", false))) {
            consumer.assign(List.of(first));
            step("commit by one who assigns", () -> {
                consumer.commitSync(Map.of(first, new OffsetAndMetadata(7, "note")));
                return sorted(consumer.committed(Set.of(first)));
            });
            step("commit nowhere", () -> {
                consumer.commitSync(
                        Map.of(new TopicPartition(prefix + "nowhere", 0), new OffsetAndMetadata(7)),
                        Duration.ofSeconds(1));
                return "taken";
            });
            step("commit with too much metadata", () -> {
                consumer.commitSync(Map.of(first, new OffsetAndMetadata(7, "x".repeat(5_000))));
                return "taken";
            });
        }
    }

    // --- groups ---

    private Map<String, Object> membership(String protocol, String group) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("group.id", prefix + group + "." + protocol);
        settings.put("enable.auto.commit", false);
        if (protocol.equals("consumer")) {
            settings.put("group.protocol", "consumer");
        } else {
            settings.put("heartbeat.interval.ms", 200);
            boolean cooperative = protocol.equals("cooperative");
            Class<?> assignor = cooperative ? CooperativeStickyAssignor.class : RangeAssignor.class;
            settings.put("partition.assignment.strategy", List.of(assignor));
        }
        return settings;
    }

    private void groups(String protocol) throws Exception {
        String topic = create("grouped." + protocol, 4);
        try (KafkaProducer<String, String> producer = producer(Map.of())) {
            for (int i = 0; i < 40; i++) producer.send(new ProducerRecord<>(topic, i % 4, null, "v" + i));
        }
        Map<String, Object> settings = membership(protocol, "g");
        Member first = new Member(topic, settings);
        step(protocol + ": one member has all", () -> {
            await(() -> first.owned.size() == 4 && first.read.get() == 40, "four partitions and their records");
            return first.assigned + " " + first.revoked;
        });
        Member second = new Member(topic, settings);
        step(protocol + ": two share", () -> {
            await(() -> first.owned.size() == 2 && second.owned.size() == 2, "two partitions for each");
            Set<TopicPartition> all = new TreeSet<>(Comparator.comparing(TopicPartition::partition));
            all.addAll(first.owned);
            all.addAll(second.owned);
            return all.size();
        });
        step(protocol + ": one leaves", () -> {
            second.close();
            await(() -> first.owned.size() == 4, "all back with the first");
            return second.lost + " " + second.owned;
        });
        step(protocol + ": metadata", () -> {
            first.close();
            return first.group;
        });
        try (KafkaConsumer<String, String> consumer = consumer(settings)) {
            step(protocol + ": committed", () -> {
                Map<TopicPartition, OffsetAndMetadata> found =
                        consumer.committed(Set.of(new TopicPartition(topic, 0), new TopicPartition(topic, 3)));
                return sorted(found);
            });
            consumer.subscribe(List.of(topic));
            step(protocol + ": commitAsync", () -> {
                await(
                        () -> {
                            consumer.poll(Duration.ofMillis(100));
                            return consumer.assignment().size() == 4;
                        },
                        "an assignment");
                AtomicReference<Object> said = new AtomicReference<>();
                TopicPartition mine = new TopicPartition(topic, 1);
                consumer.commitAsync(
                        Map.of(mine, new OffsetAndMetadata(3, "later")),
                        (offsets, error) ->
                                said.set(error == null ? offsets.get(mine).metadata() : error));
                await(
                        () -> {
                            consumer.poll(Duration.ofMillis(50));
                            return said.get() != null;
                        },
                        "the callback");
                return said.get() + " "
                        + consumer.committed(Set.of(mine)).get(mine).offset();
            });
            step(protocol + ": enforceRebalance", () -> {
                consumer.enforceRebalance("for a test");
                await(
                        () -> {
                            consumer.poll(Duration.ofMillis(50));
                            return consumer.assignment().size() == 4;
                        },
                        "an assignment");
                return consumer.assignment().size();
            });
            step(protocol + ": unsubscribe", () -> {
                consumer.unsubscribe();
                return consumer.assignment() + " " + consumer.subscription();
            });
            step(protocol + ": close", () -> timed(consumer::close));
        }
        staticMembers(protocol, topic);
        automaticCommits(protocol, topic);
    }

    private void staticMembers(String protocol, String topic) throws Exception {
        Map<String, Object> settings = membership(protocol, "static");
        settings.put("group.instance.id", "one");
        Member first = new Member(topic, settings);
        await(() -> first.owned.size() == 4, "all for the static member");
        first.close();
        Member again = new Member(topic, settings);
        step(protocol + ": a static member comes back", () -> {
            await(() -> again.owned.size() == 4, "the same partitions");
            return again.assigned + " " + again.revoked;
        });
        Member twin = new Member(topic, settings);
        step(protocol + ": two of one instance id", () -> {
            await(() -> twin.died.get() != null || again.died.get() != null, "one to be fenced");
            Throwable died = twin.died.get() != null ? twin.died.get() : again.died.get();
            return (twin.died.get() != null ? "the new one " : "the old one ")
                    + died.getClass().getSimpleName();
        });
        again.close();
        twin.close();
    }

    private void automaticCommits(String protocol, String topic) throws Exception {
        Map<String, Object> settings = membership(protocol, "auto");
        settings.put("enable.auto.commit", true);
        settings.put("max.poll.records", 5);
        TreeMap<Integer, Long> positions = new TreeMap<>();
        try (KafkaConsumer<String, String> consumer = consumer(settings)) {
            consumer.subscribe(List.of(topic));
            poll(consumer, 15);
            for (TopicPartition partition : consumer.assignment())
                positions.put(partition.partition(), consumer.position(partition));
        }
        try (KafkaConsumer<String, String> consumer = consumer(settings)) {
            step(protocol + ": committed at close", () -> {
                Map<Integer, Long> committed = new TreeMap<>();
                for (int i = 0; i < 4; i++) {
                    TopicPartition partition = new TopicPartition(topic, i);
                    OffsetAndMetadata found =
                            consumer.committed(Set.of(partition)).get(partition);
                    committed.put(i, found == null ? 0 : found.offset());
                }
                return committed.equals(positions);
            });
            consumer.subscribe(List.of(topic));
            step(protocol + ": and gone on from there", () -> poll(consumer, 25).size());
        }
    }

    private void groupsWithPatterns() throws Exception {
        for (String protocol : List.of("classic", "consumer", "RE2")) {
            String name = "pattern." + protocol + ".";
            create(name + "a", 1);
            Map<String, Object> settings =
                    membership(protocol.equals("RE2") ? "consumer" : protocol, "pattern." + protocol);
            settings.put("metadata.max.age.ms", 300);
            try (KafkaConsumer<String, String> consumer = consumer(settings)) {
                String pattern = (prefix + name).replace(".", "\\.") + ".*";
                if (protocol.equals("RE2")) consumer.subscribe(new SubscriptionPattern(pattern));
                else consumer.subscribe(Pattern.compile(pattern));
                step("pattern, " + protocol, () -> {
                    await(
                            () -> {
                                consumer.poll(Duration.ofMillis(50));
                                return consumer.assignment().size() == 1;
                            },
                            "the first topic");
                    create(name + "b", 2);
                    await(
                            () -> {
                                consumer.poll(Duration.ofMillis(50));
                                return consumer.assignment().size() == 3;
                            },
                            "the second topic");
                    return new TreeSet<>(consumer.assignment().stream()
                            .map(TopicPartition::topic)
                            .toList());
                });
            }
        }
        try (KafkaConsumer<String, String> consumer = consumer(membership("consumer", "wrong"))) {
            consumer.subscribe(new SubscriptionPattern("("));
            step("a wrong pattern", () -> poll(consumer, 1));
        }
        try (KafkaConsumer<String, String> consumer = consumer(membership("classic", "g.consumer"))) {
            consumer.subscribe(List.of("a/b"));
            step("subscribe to a name that cannot be", () -> poll(consumer, 1));
        }
        Map<String, Object> odd = membership("consumer", "assignor");
        odd.put("group.remote.assignor", "nonsense");
        try (KafkaConsumer<String, String> consumer = consumer(odd)) {
            consumer.subscribe(List.of(prefix + "produced"));
            step("an assignor that is not there", () -> poll(consumer, 1));
        }
    }

    // --- transactions ---

    private void transactions() {
        Map<String, Object> settings = Map.of("transactional.id", prefix + "t", "max.block.ms", 15_000);
        try (KafkaProducer<String, String> producer = producer(settings)) {
            step("initTransactions", () -> {
                try {
                    producer.initTransactions();
                } catch (KafkaException refused) {
                    return refused.getMessage();
                }
                return "done";
            });
        }
    }

    // --- parts ---

    /** A consumer in a thread of its own that commits what it reads. */
    private final class Member extends Thread {
        final Set<TopicPartition> owned = ConcurrentHashMap.newKeySet();
        final AtomicInteger read = new AtomicInteger();
        final AtomicReference<Throwable> died = new AtomicReference<>();
        volatile int assigned;
        volatile int revoked;
        volatile int lost;
        volatile String group;
        private volatile boolean closing;
        private final String topic;
        private final Map<String, Object> settings;

        Member(String topic, Map<String, Object> settings) {
            this.topic = topic;
            this.settings = settings;
            setDaemon(true);
            start();
        }

        @Override
        public void run() {
            try (KafkaConsumer<String, String> consumer = consumer(settings)) {
                consumer.subscribe(List.of(topic), new ConsumerRebalanceListener() {
                    @Override
                    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                        if (!partitions.isEmpty()) assigned++;
                        owned.addAll(partitions);
                    }

                    @Override
                    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                        if (!closing) revoked++;
                        owned.removeAll(partitions);
                    }

                    @Override
                    public void onPartitionsLost(Collection<TopicPartition> partitions) {
                        lost++;
                        owned.removeAll(partitions);
                    }
                });
                while (!closing) {
                    int count = consumer.poll(Duration.ofMillis(50)).count();
                    if (count > 0) consumer.commitSync();
                    read.addAndGet(count);
                }
                group = consumer.groupMetadata().groupInstanceId().isPresent() ? "static" : "dynamic";
            } catch (Throwable thrown) {
                died.set(thrown);
            }
        }

        void close() throws InterruptedException {
            closing = true;
            join(PATIENCE.toMillis());
            if (isAlive()) throw new AssertionError("a consumer does not close");
        }
    }

    private static String timed(Runnable closing) {
        long start = System.nanoTime();
        closing.run();
        return System.nanoTime() - start < TimeUnit.SECONDS.toNanos(5) ? "soon" : "late";
    }

    private static List<ConsumerRecord<String, String>> poll(KafkaConsumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> found = new ArrayList<>();
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        while (found.size() < count) {
            if (System.nanoTime() > deadline) throw new AssertionError(found.size() + " records in place of " + count);
            for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) found.add(record);
        }
        return found;
    }

    private static Map<String, Object> sorted(Map<TopicPartition, ?> found) {
        Map<String, Object> result = new TreeMap<>();
        found.forEach((partition, value) -> result.put(partition.toString(), shown(value)));
        return result;
    }

    /** Without the leader epoch: the first one is not the same everywhere. */
    private static Object shown(Object found) {
        if (found instanceof OffsetAndTimestamp at) return at.offset() + " at " + at.timestamp();
        if (found instanceof OffsetAndMetadata committed) return committed.offset() + committed.metadata();
        return found;
    }

    private static ProducerRecord<String, String> record(String topic, String value) {
        return new ProducerRecord<>(topic, value);
    }

    private KafkaProducer<String, String> producer(Map<String, ?> more) {
        return new KafkaProducer<>(settings(more), new StringSerializer(), new StringSerializer());
    }

    private KafkaConsumer<String, String> consumer(Map<String, ?> more) {
        Properties settings = settings(Map.of("auto.offset.reset", "earliest"));
        settings.putAll(more);
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private String create(String name, int partitions, String... configs) throws Exception {
        Map<String, String> wanted = new HashMap<>();
        for (int i = 0; i < configs.length; i += 2) wanted.put(configs[i], configs[i + 1]);
        try (Admin admin = Admin.create(settings(Map.of()))) {
            admin.createTopics(List.of(new NewTopic(prefix + name, partitions, (short) 1).configs(wanted)))
                    .all()
                    .get();
        }
        return prefix + name;
    }
}
