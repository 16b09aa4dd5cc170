// Prints the kind and the key of each record that an agreement shares, and of each deletion.
//
//     npm install
//     node reader.js /secrets/math-app.env student enrollment
//
// Ends when nothing has come for 5 seconds. The program takes the agreement's name from the file's name.

import { readFileSync } from "node:fs";
import { Agent } from "node:https";
import path from "node:path";
import { SchemaRegistry } from "@kafkajs/confluent-schema-registry";
import kafkajs from "kafkajs";
import lz4 from "lz4js";

const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = kafkajs;
// The vendors' topics are compressed with LZ4, which kafkajs lacks.
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});

const IDLE_MS = 5_000;

const [file, ...kinds] = process.argv.slice(2);
const agreement = path.basename(file, ".env");
const settings = Object.fromEntries(
  readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => line && !line.startsWith("#"))
    .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
);
const user = settings.BUS_KAFKA__SASL_USERNAME;
const ca = readFileSync(path.resolve(path.dirname(file), settings.BUS_KAFKA__CA_FILE));
const prefix = `${settings.BUS_TOPIC_PREFIX}.vendor.${agreement}.`;

const kafka = new Kafka({
  brokers: settings.BUS_KAFKA__BOOTSTRAP.split(","),
  ssl: { ca: [ca] },
  sasl: {
    mechanism: "scram-sha-512",
    username: user,
    password: settings.BUS_KAFKA__SASL_PASSWORD,
  },
  reauthenticationThreshold: 1_000, // ms; Kafka may ask for the password every few seconds
  logLevel: logLevel.ERROR,
});
const registry = new SchemaRegistry({
  host: settings.BUS_REGISTRY__URL,
  auth: { username: user, password: settings.BUS_REGISTRY__BEARER_TOKEN },
  agent: settings.BUS_REGISTRY__URL.startsWith("https:") ? new Agent({ ca }) : undefined,
});
const consumer = kafka.consumer({ groupId: `${prefix}reader-node` });

let last = Date.now();
await consumer.connect();
consumer.on(consumer.events.CRASH, () => { process.exitCode = 1; });
consumer.on(consumer.events.GROUP_JOIN, () => { last = Date.now(); });
await consumer.subscribe({ topics: kinds.map((kind) => prefix + kind), fromBeginning: true });
await consumer.run({
  eachMessage: async ({ topic, message }) => {
    last = Date.now();
    const kind = topic.slice(prefix.length);
    if (message.value === null) {
      console.log(`${kind} ${message.key} deleted`);
    } else {
      const record = await registry.decode(message.value);
      console.log(`${kind} ${record.sourcedId}`);
    }
  },
});
const timer = setInterval(async () => {
  if (Date.now() - last > IDLE_MS) {
    clearInterval(timer);
    await consumer.disconnect();
  }
}, 200);
