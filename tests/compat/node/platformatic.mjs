// Administers, produces and consumes with @platformatic/kafka (zstd needs a newer Node.js). Arguments and output as in kafkajs.js.
import { Admin, Consumer, Producer, stringDeserializers, stringSerializers } from '@platformatic/kafka'

const [server, topic] = process.argv.slice(2)
const common = { clientId: 'platformatic', bootstrapBrokers: [server] }
const seen = {}

const admin = new Admin(common)
await admin.createTopics({ topics: [topic], partitions: 2, replicas: 1 })
const metadata = await admin.metadata({ topics: [topic] })
seen.partitions = metadata.topics.get(topic).partitions.length
seen.nodes = [...metadata.brokers.keys()].sort()

for (const compression of ['none', 'gzip', 'snappy', 'lz4']) {
  const producer = new Producer({ ...common, serializers: stringSerializers, compression })
  await producer.send({ messages: [{ topic, partition: 0, key: 'k', value: compression, headers: { one: '1' } }] })
  await producer.close()
}
for (const groupProtocol of ['classic', 'consumer']) {
  const consumer = new Consumer({
    ...common, groupId: `${topic}.${groupProtocol}`, groupProtocol, deserializers: stringDeserializers
  })
  const stream = await consumer.consume({ topics: [topic], mode: 'earliest', autocommit: true })
  seen[groupProtocol] = []
  for await (const message of stream) {
    seen[groupProtocol].push(message.value)
    if (seen[groupProtocol].length === 4) break
  }
  await stream.close()
  await consumer.close()
}
await admin.close()
console.log(JSON.stringify(seen))
