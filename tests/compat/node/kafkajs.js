// Administers, produces and consumes with kafkajs. Arguments: bootstrap server, topic. Prints what it has seen as JSON.
const { CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = require('kafkajs')

async function main ([server, topic]) {
  const kafka = new Kafka({ brokers: [server], clientId: 'kafkajs', logLevel: logLevel.ERROR })
  const seen = {}
  const admin = kafka.admin()
  await admin.connect()
  const wanted = { topic, numPartitions: 2, configEntries: [{ name: 'retention.ms', value: '7000000' }] }
  seen.created = await admin.createTopics({ topics: [wanted] })
  seen.createdAgain = await admin.createTopics({ topics: [wanted] })
  seen.listed = (await admin.listTopics()).includes(topic)
  const resource = { type: ConfigResourceTypes.TOPIC, name: topic, configNames: ['retention.ms'] }
  const described = await admin.describeConfigs({ includeSynonyms: false, resources: [resource] })
  seen.retention = described.resources[0].configEntries[0].configValue
  const change = { name: 'retention.ms', value: '8000000' }
  await admin.alterConfigs({ resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [change] }] })
  const altered = await admin.describeConfigs({ includeSynonyms: false, resources: [resource] })
  seen.altered = altered.resources[0].configEntries[0].configValue
  await admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] })
  const metadata = await admin.fetchTopicMetadata({ topics: [topic] })
  seen.partitions = metadata.topics[0].partitions.length
  const cluster = await admin.describeCluster()
  seen.nodes = cluster.brokers.map(broker => broker.nodeId).sort()

  const messages = [{ key: 'k', value: 'v', headers: { one: '1' }, partition: 0 }, { value: null, partition: 0 }]
  const producer = kafka.producer()
  await producer.connect()
  for (const acks of [0, 1, -1]) await producer.send({ topic, acks, messages })
  await producer.send({ topic, messages, compression: CompressionTypes.GZIP })
  await producer.disconnect()
  const idempotent = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
  await idempotent.connect()
  for (let i = 0; i < 3; i++) await idempotent.send({ topic, messages })
  await idempotent.disconnect()

  const consumer = kafka.consumer({ groupId: `${topic}.members` })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  seen.consumed = []
  await new Promise((resolve, reject) => {
    const eachMessage = async ({ message }) => {
      seen.consumed.push(message.value && message.value.toString())
      if (seen.consumed.length === 14) resolve()
    }
    consumer.run({ eachMessage }).catch(reject)
  })
  await consumer.disconnect()
  const left = await admin.fetchOffsets({ groupId: `${topic}.members`, topics: [topic] })
  seen.committed = left[0].partitions.find(found => found.partition === 0).offset
  await admin.deleteGroups([`${topic}.members`])

  const offsets = await admin.fetchTopicOffsets(topic)
  seen.offset = offsets.find(found => found.partition === 0).offset
  const later = await admin.fetchTopicOffsetsByTimestamp(topic, Date.now() + 60000)
  seen.offsetLater = later.find(found => found.partition === 0).offset
  await admin.disconnect()
  console.log(JSON.stringify(seen))
}

main(process.argv.slice(2)).catch(error => { console.error(error); process.exit(1) })
