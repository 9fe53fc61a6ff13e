// Produces large values as the first request of a connection, then again when a line comes in: on new connections, a worker
// has died meanwhile. Arguments: kafkajs or platformatic, bootstrap server, topic. Prints `ready`, at the end the sizes.
import { createRequire } from 'node:module'
import { once } from 'node:events'

const [library, server, topic] = process.argv.slice(2)
const sizes = [70_000, 200_000, 900_000]

async function withKafkajs () {
  const { Kafka, logLevel } = createRequire(import.meta.url)('kafkajs')
  const kafka = new Kafka({ brokers: [server], clientId: 'kafkajs', logLevel: logLevel.NOTHING })
  const producer = kafka.producer()
  await producer.connect()
  const send = async size => producer.send({ topic, messages: [{ value: Buffer.alloc(size, 'x'), partition: 0 }] })
  return [send, () => producer.disconnect()]
}

async function withPlatformatic () {
  const { Producer } = await import('@platformatic/kafka')
  const producer = new Producer({ clientId: 'platformatic', bootstrapBrokers: [server], retries: 20, retryDelay: 200 })
  const send = async size => producer.send({ messages: [{ topic, partition: 0, value: Buffer.alloc(size, 'x') }] })
  return [send, () => producer.close()]
}

const [send, close] = await (library === 'kafkajs' ? withKafkajs() : withPlatformatic())
for (const size of sizes) await send(size)
console.log('ready')
await once(process.stdin, 'data')
for (const size of sizes) await send(size)
await close()
console.log(JSON.stringify({ sent: [...sizes, ...sizes] }))
process.exit(0)
