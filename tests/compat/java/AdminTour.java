import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionReplica;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.quota.ClientQuotaFilter;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Every method of the admin client, those too that not every broker answers: {@code AdminTour SERVERS PREFIX}. */
final class AdminTour extends Tour {
    private final Admin admin;
    private final String topic;

    private AdminTour(String servers, String prefix) {
        super(servers, prefix);
        admin = Admin.create(settings(Map.of("request.timeout.ms", 10_000, "default.api.timeout.ms", 15_000)));
        topic = prefix + "t";
    }

    public static void main(String[] arguments) {
        AdminTour tour = new AdminTour(arguments[0], arguments[1]);
        try (tour.admin) {
            tour.topics();
            tour.configs();
            tour.records();
            tour.groups("classic");
            tour.groups("consumer");
            tour.cluster();
            tour.refusals();
            tour.deletion();
        }
    }

    private void topics() {
        step("createTopics", () -> {
            CreateTopicsResult made = admin.createTopics(
                    List.of(new NewTopic(topic, 3, (short) 1).configs(Map.of("retention.ms", "100000"))));
            made.all().get();
            Config config = made.config(topic).get();
            return made.numPartitions(topic).get() + " "
                    + made.replicationFactor(topic).get() + " "
                    + config.get("retention.ms").value() + " "
                    + config.get("retention.ms").source() + " "
                    + config.get("max.message.bytes").source() + " " + names(config);
        });
        step("createTopics again", () -> admin.createTopics(List.of(new NewTopic(topic, 3, (short) 1)))
                .all()
                .get());
        step("createTopics by defaults", () -> {
            CreateTopicsResult made =
                    admin.createTopics(List.of(new NewTopic(prefix + "defaults", Optional.empty(), Optional.empty())));
            return made.numPartitions(prefix + "defaults").get() + " "
                    + made.replicationFactor(prefix + "defaults").get();
        });
        step("createTopics to look only", () -> {
            CreateTopicsResult made = admin.createTopics(
                    List.of(new NewTopic(prefix + "v", 7, (short) 1)), new CreateTopicsOptions().validateOnly(true));
            made.all().get();
            return made.numPartitions(prefix + "v").get() + " "
                    + admin.listTopics().names().get().contains(prefix + "v");
        });
        step("createTopics, many wrong", () -> {
            Map<String, Object> said = new TreeMap<>();
            CreateTopicsResult made = admin.createTopics(List.of(
                    new NewTopic(prefix + "w1", 0, (short) 1),
                    new NewTopic(prefix + "w2", 1, (short) 9),
                    new NewTopic("a/b", 1, (short) 1),
                    new NewTopic(prefix + "w3", 1, (short) 1).configs(Map.of("no.such", "1")),
                    new NewTopic(prefix + "w4", 1, (short) 1).configs(Map.of("retention.ms", "x"))));
            made.values().forEach((name, future) -> said.put(name, outcome(name, future::get)));
            return said;
        });
        step("listTopics", () -> admin.listTopics().names().get().contains(topic));
        step("describeTopics", () -> {
            TopicDescription found = admin.describeTopics(
                            List.of(topic), new DescribeTopicsOptions().includeAuthorizedOperations(true))
                    .allTopicNames()
                    .get()
                    .get(topic);
            return found.partitions().size() + " " + found.isInternal() + " "
                    + new TreeSet<>(found.authorizedOperations()) + " "
                    + found.partitions().get(0).replicas().size() + " "
                    + found.partitions().get(0).isr().size() + " "
                    + found.partitions().get(0).elr()
                    + found.partitions().get(0).lastKnownElr();
        });
        step("describeTopics by id", () -> {
            Uuid id = described(topic).topicId();
            return admin.describeTopics(TopicCollection.ofTopicIds(List.of(id)))
                    .allTopicIds()
                    .get()
                    .get(id)
                    .name();
        });
        step("describeTopics of a stranger", () -> admin.describeTopics(List.of(prefix + "no"))
                .allTopicNames()
                .get());
        step("describeTopics of a strange id", () -> admin.describeTopics(
                        TopicCollection.ofTopicIds(List.of(new Uuid(7, 7))))
                .allTopicIds()
                .get());
        step("describeTopics in pages", () -> admin
                .describeTopics(
                        List.of(topic, prefix + "defaults"),
                        new DescribeTopicsOptions().partitionSizeLimitPerResponse(1))
                .allTopicNames()
                .get()
                .values()
                .stream()
                .mapToInt(t -> t.partitions().size())
                .sum());
        step("createPartitions", () -> {
            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(4)))
                    .all()
                    .get();
            return described(topic).partitions().size();
        });
        step("createPartitions to look only", () -> admin.createPartitions(
                        Map.of(topic, NewPartitions.increaseTo(9)), new CreatePartitionsOptions().validateOnly(true))
                .all()
                .get());
        step("createPartitions, fewer", () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(2)))
                .all()
                .get());
        step("createPartitions of a stranger", () -> admin.createPartitions(
                        Map.of(prefix + "no", NewPartitions.increaseTo(2)))
                .all()
                .get());
    }

    private TopicDescription described(String name) throws Exception {
        return admin.describeTopics(List.of(name)).allTopicNames().get().get(name);
    }

    private ConsumerGroupDescription describedGroup(String id) throws Exception {
        return admin.describeConsumerGroups(List.of(id)).all().get().get(id);
    }

    private Config configOf(ConfigResource resource) throws Exception {
        return admin.describeConfigs(List.of(resource)).all().get().get(resource);
    }

    /** All but our own one. */
    private static String names(Config config) {
        return config.entries().stream()
                .map(ConfigEntry::name)
                .filter(name -> !name.equals("flush.acks.all") && !name.equals("record.validation"))
                .sorted()
                .collect(Collectors.joining(","));
    }

    private void configs() {
        ConfigResource own = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        step("describeConfigs", () -> {
            Config config = admin.describeConfigs(
                            List.of(own),
                            new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true))
                    .all()
                    .get()
                    .get(own);
            ConfigEntry entry = config.get("retention.ms");
            boolean documented = config.entries().stream()
                    .allMatch(
                            e -> e.documentation() != null && !e.documentation().isEmpty());
            return entry.value() + entry.source() + entry.type() + entry.isDefault() + entry.isReadOnly()
                    + entry.isSensitive() + entry.synonyms().get(0) + " " + documented;
        });
        for (AlterConfigOp.OpType kind : AlterConfigOp.OpType.values()) {
            step("incrementalAlterConfigs " + kind, () -> {
                alter(own, "cleanup.policy", kind == AlterConfigOp.OpType.DELETE ? "" : "compact", kind);
                ConfigEntry entry = configOf(own).get("cleanup.policy");
                return entry.value() + " " + entry.source();
            });
        }
        step("append to what is no list", () -> alter(own, "retention.ms", "5", AlterConfigOp.OpType.APPEND));
        step("a setting that is not there", () -> alter(own, "no.such", "5", AlterConfigOp.OpType.SET));
        step("a wrong value", () -> alter(own, "retention.ms", "five", AlterConfigOp.OpType.SET));
        step(
                "a topic that is not there",
                () -> alter(
                        new ConfigResource(ConfigResource.Type.TOPIC, prefix + "no"),
                        "retention.ms",
                        "5",
                        AlterConfigOp.OpType.SET));
        step("to look only", () -> admin.incrementalAlterConfigs(
                        Map.of(
                                own,
                                List.of(new AlterConfigOp(
                                        new ConfigEntry("retention.ms", "7"), AlterConfigOp.OpType.SET))),
                        new AlterConfigsOptions().validateOnly(true))
                .all()
                .get());
        ConfigResource everybody = new ConfigResource(ConfigResource.Type.BROKER, "");
        step("all brokers' settings", () -> {
            alter(everybody, "log.retention.ms", "86400000", AlterConfigOp.OpType.SET);
            await(() -> configOf(everybody).get("log.retention.ms") != null, "the setting");
            ConfigEntry found = configOf(everybody).get("log.retention.ms");
            alter(everybody, "log.retention.ms", "", AlterConfigOp.OpType.DELETE);
            return found.value() + found.source();
        });
        step("one broker's settings", () -> {
            ConfigResource node = new ConfigResource(ConfigResource.Type.BROKER, "1");
            alter(node, "message.max.bytes", "2000000", AlterConfigOp.OpType.SET);
            alter(node, "message.max.bytes", "", AlterConfigOp.OpType.DELETE);
            return configOf(node).get("num.partitions").value();
        });
        step(
                "a broker's setting that cannot change",
                () -> alter(
                        new ConfigResource(ConfigResource.Type.BROKER, "1"),
                        "log.dirs",
                        "/x",
                        AlterConfigOp.OpType.SET));
        step("a broker's logger", () -> admin.describeConfigs(
                        List.of(new ConfigResource(ConfigResource.Type.BROKER_LOGGER, "1")))
                .all()
                .get()
                .size());
        ConfigResource group = new ConfigResource(ConfigResource.Type.GROUP, prefix + "asked.consumer");
        step(
                "a group's settings",
                () -> configOf(group).get("consumer.session.timeout.ms").type());
        step("a group's settings altered", () -> {
            alter(group, "consumer.session.timeout.ms", "50000", AlterConfigOp.OpType.SET);
            Config config = configOf(group);
            return config.get("consumer.session.timeout.ms").value()
                    + config.get("consumer.session.timeout.ms").source();
        });
        ConfigResource metrics = new ConfigResource(ConfigResource.Type.CLIENT_METRICS, prefix + "m");
        step("client metrics", () -> alter(metrics, "interval.ms", "60000", AlterConfigOp.OpType.SET));
        step("listConfigResources", () -> admin.listConfigResources().all().get().stream()
                .map(r -> r.type().toString())
                .collect(Collectors.toCollection(TreeSet::new)));
        step("listConfigResources of topics", () -> admin.listConfigResources(
                        Set.of(ConfigResource.Type.TOPIC), new ListConfigResourcesOptions())
                .all()
                .get()
                .contains(own));
        step("listConfigResources of groups", () -> admin.listConfigResources(
                        Set.of(ConfigResource.Type.GROUP), new ListConfigResourcesOptions())
                .all()
                .get());
    }

    private Object alter(ConfigResource resource, String name, String value, AlterConfigOp.OpType kind)
            throws Exception {
        return admin.incrementalAlterConfigs(
                        Map.of(resource, List.of(new AlterConfigOp(new ConfigEntry(name, value), kind))))
                .all()
                .get();
    }

    private void records() {
        try (KafkaProducer<String, String> producer =
                new KafkaProducer<>(settings(Map.of()), new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < 20; i++)
                producer.send(new ProducerRecord<>(topic, 0, 1_700_000_000_000L + (i == 11 ? 99 : i), "k", "v"));
            producer.flush();
            TopicPartition first = new TopicPartition(topic, 0);
            TopicPartition empty = new TopicPartition(topic, 1);
            Map<String, OffsetSpec> specs = new TreeMap<>(Map.of(
                    "earliest",
                    OffsetSpec.earliest(),
                    "latest",
                    OffsetSpec.latest(),
                    "max timestamp",
                    OffsetSpec.maxTimestamp(),
                    "time",
                    OffsetSpec.forTimestamp(1_700_000_000_005L),
                    "late time",
                    OffsetSpec.forTimestamp(1_900_000_000_000L),
                    "local",
                    OffsetSpec.earliestLocal(),
                    "tiered",
                    OffsetSpec.latestTiered(),
                    "pending upload",
                    OffsetSpec.earliestPendingUpload()));
            specs.forEach((name, spec) -> step("listOffsets " + name, () -> {
                ListOffsetsResult found = admin.listOffsets(Map.of(first, spec, empty, spec));
                ListOffsetsResult.ListOffsetsResultInfo one =
                        found.partitionResult(first).get();
                return one.offset() + " " + one.timestamp() + " "
                        + found.partitionResult(empty).get().offset();
            }));
            step("listOffsets of a stranger", () -> admin.listOffsets(
                            Map.of(new TopicPartition(prefix + "no", 0), OffsetSpec.latest()))
                    .all()
                    .get());
            step("listOffsets, committed", () -> admin.listOffsets(
                            Map.of(first, OffsetSpec.latest()), new ListOffsetsOptions(IsolationLevel.READ_COMMITTED))
                    .partitionResult(first)
                    .get()
                    .offset());
            step(
                    "describeProducers",
                    () ->
                            admin
                                    .describeProducers(List.of(first))
                                    .partitionResult(first)
                                    .get()
                                    .activeProducers()
                                    .stream()
                                    .map(p -> p.lastSequence() + " " + p.producerEpoch() + " "
                                            + p.currentTransactionStartOffset())
                                    .toList());
            step("deleteRecords", () -> admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(5)))
                    .lowWatermarks()
                    .get(first)
                    .get()
                    .lowWatermark());
            step("deleteRecords, too many", () -> admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(500)))
                    .lowWatermarks()
                    .get(first)
                    .get());
        }
    }

    private void groups(String protocol) {
        String group = prefix + "asked." + protocol;
        TopicPartition first = new TopicPartition(topic, 0);
        Properties settings = settings(Map.of(
                "group.id", group, "group.protocol", protocol, "client.id", "tourist", "enable.auto.commit", false));
        try (KafkaConsumer<String, String> consumer =
                new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            step(protocol + ": joined", () -> {
                await(
                        () -> {
                            consumer.poll(Duration.ofMillis(50));
                            return consumer.assignment().size() == 4;
                        },
                        "an assignment");
                consumer.commitSync(Map.of(first, new OffsetAndMetadata(3, "note")));
                return consumer.assignment().size();
            });
            step(protocol + ": listGroups", () -> admin.listGroups().all().get().stream()
                    .filter(g -> g.groupId().equals(group))
                    .map(GroupListing::toString)
                    .toList());
            step(protocol + ": listGroups of a type", () -> admin
                    .listGroups(new ListGroupsOptions()
                            .withTypes(Set.of(GroupType.parse(protocol)))
                            .inGroupStates(Set.of(GroupState.STABLE)))
                    .all()
                    .get()
                    .stream()
                    .anyMatch(g -> g.groupId().equals(group)));
            step(protocol + ": listGroups of other types", () -> admin.listGroups(
                            new ListGroupsOptions().withTypes(Set.of(GroupType.SHARE, GroupType.STREAMS)))
                    .all()
                    .get());
            step(protocol + ": describeConsumerGroups", () -> {
                ConsumerGroupDescription found = admin.describeConsumerGroups(
                                List.of(group), new DescribeConsumerGroupsOptions().includeAuthorizedOperations(true))
                        .all()
                        .get()
                        .get(group);
                MemberDescription member = found.members().iterator().next();
                return found.groupState() + " " + found.type() + " " + found.partitionAssignor() + " "
                        + found.isSimpleConsumerGroup() + " " + new TreeSet<>(found.authorizedOperations()) + " "
                        + member.clientId() + member.groupInstanceId() + member.host() + " "
                        + member.assignment().topicPartitions().size()
                        + member.targetAssignment().map(t -> t.topicPartitions().size())
                        + member.upgraded() + " "
                        + (member.memberEpoch().equals(found.groupEpoch())
                                && found.groupEpoch().equals(found.targetAssignmentEpoch()));
            });
            step(protocol + ": describeClassicGroups", () -> admin.describeClassicGroups(List.of(group))
                    .all()
                    .get()
                    .get(group)
                    .state());
            step(
                    protocol + ": deleteConsumerGroups",
                    () -> admin.deleteConsumerGroups(List.of(group)).all().get());
            step(protocol + ": alterConsumerGroupOffsets", () -> admin.alterConsumerGroupOffsets(
                            group, Map.of(first, new OffsetAndMetadata(1)))
                    .all()
                    .get());
            step(protocol + ": deleteConsumerGroupOffsets", () -> admin.deleteConsumerGroupOffsets(group, Set.of(first))
                    .all()
                    .get());
            step(protocol + ": listConsumerGroupOffsets", () -> admin.listConsumerGroupOffsets(group)
                    .partitionsToOffsetAndMetadata()
                    .get()
                    .get(first)
                    .metadata());
            step(protocol + ": removeMembersFromConsumerGroup", () -> {
                admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions())
                        .all()
                        .get();
                return describedGroup(group).members().size();
            });
        }
        step(protocol + ": empty", () -> describedGroup(group).groupState());
        step(protocol + ": alterConsumerGroupOffsets, empty", () -> {
            admin.alterConsumerGroupOffsets(
                            group,
                            Map.of(
                                    first,
                                    new OffsetAndMetadata(1, "set"),
                                    new TopicPartition(topic, 1),
                                    new OffsetAndMetadata(9)))
                    .all()
                    .get();
            return new TreeMap<>(
                    admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().entrySet().stream()
                            .collect(Collectors.toMap(
                                    e -> e.getKey().toString(),
                                    e -> e.getValue().offset() + e.getValue().metadata())));
        });
        step(protocol + ": alterConsumerGroupOffsets of a stranger", () -> admin.alterConsumerGroupOffsets(
                        group, Map.of(new TopicPartition(prefix + "no", 0), new OffsetAndMetadata(1)))
                .all()
                .get());
        step(protocol + ": deleteConsumerGroupOffsets, empty", () -> admin.deleteConsumerGroupOffsets(
                        group, Set.of(first))
                .partitionResult(first)
                .get());
        step(protocol + ": listConsumerGroupOffsets of many", () -> admin
                .listConsumerGroupOffsets(Map.of(
                        group, new ListConsumerGroupOffsetsSpec(), prefix + "none", new ListConsumerGroupOffsetsSpec()))
                .all()
                .get()
                .values()
                .stream()
                .map(Map::size)
                .sorted()
                .toList());
        step(
                protocol + ": deleteConsumerGroups, empty",
                () -> admin.deleteConsumerGroups(List.of(group)).all().get());
        step(
                protocol + ": gone",
                () -> admin.describeConsumerGroups(List.of(group)).all().get());
        step(
                protocol + ": deleteConsumerGroups, gone",
                () -> admin.deleteConsumerGroups(List.of(group)).all().get());
        step(protocol + ": alterConsumerGroupOffsets, new", () -> {
            admin.alterConsumerGroupOffsets(group, Map.of(first, new OffsetAndMetadata(1)))
                    .all()
                    .get();
            ConsumerGroupDescription found = describedGroup(group);
            return found.groupState() + " " + found.type() + found.isSimpleConsumerGroup();
        });
    }

    private void cluster() {
        step("describeCluster", () -> {
            DescribeClusterResult found =
                    admin.describeCluster(new DescribeClusterOptions().includeAuthorizedOperations(true));
            return found.clusterId().get().length() + " "
                    + found.nodes().get().contains(found.controller().get()) + " "
                    + new TreeSet<>(found.authorizedOperations().get());
        });
        step("describeCluster, fenced ones too", () -> admin.describeCluster(
                        new DescribeClusterOptions().includeFencedBrokers(true))
                .nodes()
                .get()
                .isEmpty());
        step("describeLogDirs", () -> {
            int partitions = 0;
            List<Integer> nodes = admin.describeCluster().nodes().get().stream()
                    .map(n -> n.id())
                    .toList();
            for (Map<String, LogDirDescription> folders :
                    admin.describeLogDirs(nodes).allDescriptions().get().values()) {
                for (LogDirDescription folder : folders.values()) {
                    if (folder.error() != null
                            || folder.totalBytes().isEmpty()
                            || folder.usableBytes().isEmpty()) return "no sizes";
                    partitions += folder.replicaInfos().keySet().stream()
                            .filter(p -> p.topic().equals(topic))
                            .count();
                }
            }
            return partitions;
        });
        step("describeReplicaLogDirs", () -> {
            int leader = described(topic).partitions().get(0).leader().id();
            TopicPartitionReplica replica = new TopicPartitionReplica(topic, 0, leader);
            return admin.describeReplicaLogDirs(List.of(replica))
                            .all()
                            .get()
                            .get(replica)
                            .getCurrentReplicaLogDir()
                    != null;
        });
        step("alterReplicaLogDirs", () -> {
            int leader = described(topic).partitions().get(0).leader().id();
            return admin.alterReplicaLogDirs(Map.of(new TopicPartitionReplica(topic, 0, leader), "/nowhere"))
                    .all()
                    .get();
        });
        step(
                "describeFeatures",
                () -> admin.describeFeatures().featureMetadata().get().finalizedFeatures().keySet().stream()
                        .sorted()
                        .toList());
        step("updateFeatures", () -> admin.updateFeatures(
                        Map.of("no.such", new FeatureUpdate((short) 1, FeatureUpdate.UpgradeType.UPGRADE)),
                        new UpdateFeaturesOptions())
                .all()
                .get());
        step("electLeaders", () -> admin
                .electLeaders(
                        ElectionType.PREFERRED,
                        Set.of(new TopicPartition(topic, 0), new TopicPartition(prefix + "no", 0)))
                .partitions()
                .get()
                .values()
                .stream()
                .map(e -> e.map(t -> t.getClass().getSimpleName()).orElse("done"))
                .sorted()
                .toList());
        step("electLeaders, all", () -> admin.electLeaders(ElectionType.PREFERRED, null)
                .partitions()
                .get());
        step(
                "listPartitionReassignments",
                () -> admin.listPartitionReassignments().reassignments().get());
        step("alterPartitionReassignments", () -> admin.alterPartitionReassignments(
                        Map.of(new TopicPartition(topic, 0), Optional.empty()))
                .all()
                .get());
        step("metrics", () -> admin.metrics().isEmpty());
        step("clientInstanceId", () -> admin.clientInstanceId(Duration.ofSeconds(2)));
        step(
                "describeMetadataQuorum",
                () -> admin.describeMetadataQuorum().quorumInfo().get().voters().size());
        step("listTransactions", () -> admin.listTransactions().all().get());
        step(
                "describeTransactions",
                () -> admin.describeTransactions(List.of(prefix + "x")).all().get());
        step("abortTransaction", () -> admin.abortTransaction(
                        new AbortTransactionSpec(new TopicPartition(topic, 0), 5, (short) 0, 0))
                .all()
                .get());
        step(
                "fenceProducers",
                () -> admin.fenceProducers(List.of(prefix + "x")).all().get());
        step("unregisterBroker", () -> admin.unregisterBroker(99).all().get());
    }

    private void refusals() {
        step(
                "describeAcls",
                () -> admin.describeAcls(AclBindingFilter.ANY).values().get());
        step("createAcls", () -> admin.createAcls(List.of(new AclBinding(
                        new ResourcePattern(ResourceType.TOPIC, topic, PatternType.LITERAL),
                        new AccessControlEntry("User:x", "*", AclOperation.READ, AclPermissionType.ALLOW))))
                .all()
                .get());
        step(
                "deleteAcls",
                () -> admin.deleteAcls(List.of(AclBindingFilter.ANY)).all().get());
        step("describeClientQuotas", () -> admin.describeClientQuotas(ClientQuotaFilter.all())
                .entities()
                .get());
        step(
                "describeUserScramCredentials",
                () -> admin.describeUserScramCredentials().all().get());
        step(
                "describeDelegationToken",
                () -> admin.describeDelegationToken().delegationTokens().get());
        step(
                "createDelegationToken",
                () -> admin.createDelegationToken().delegationToken().get());
        step(
                "describeShareGroups",
                () -> admin.describeShareGroups(List.of(prefix + "s")).all().get());
        step(
                "describeStreamsGroups",
                () -> admin.describeStreamsGroups(List.of(prefix + "s")).all().get());
        step("listShareGroupOffsets", () -> admin.listShareGroupOffsets(
                        Map.of(prefix + "s", new ListShareGroupOffsetsSpec()))
                .all()
                .get());
    }

    private void deletion() {
        step("deleteTopics by id", () -> {
            Uuid id = described(prefix + "defaults").topicId();
            return admin.deleteTopics(TopicCollection.ofTopicIds(List.of(id)))
                    .all()
                    .get();
        });
        step("deleteTopics", () -> admin.deleteTopics(List.of(topic)).all().get());
        step(
                "deleteTopics again",
                () -> admin.deleteTopics(List.of(topic)).all().get());
        step("deleteTopics of a strange id", () -> admin.deleteTopics(
                        TopicCollection.ofTopicIds(List.of(new Uuid(7, 7))))
                .all()
                .get());
    }
}
