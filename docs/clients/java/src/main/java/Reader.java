import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Prints the kind and the key of each record that an agreement shares, and of each deletion.
 *
 * <pre>
 * mvn -q compile
 * java -cp 'target/classes:target/lib/*' Reader /secrets/math-app.env student enrollment
 * </pre>
 *
 * Ends when nothing has come for 5 seconds. The program takes the agreement's name from the file's name.
 */
public class Reader {
    private static final Duration IDLE = Duration.ofSeconds(5);

    private final Map<String, String> settings = new HashMap<>();
    private final Map<Integer, Schema> schemas = new HashMap<>();
    private final Path ca;
    private final HttpClient http;

    public static void main(String[] arguments) throws Exception {
        new Reader(Path.of(arguments[0]))
                .read(arguments[0], List.of(arguments).subList(1, arguments.length));
    }

    private Reader(Path file) throws Exception {
        for (String line : Files.readAllLines(file)) {
            int at = line.indexOf('=');
            if (at > 0 && !line.startsWith("#")) {
                settings.put(line.substring(0, at), line.substring(at + 1));
            }
        }
        ca = file.toAbsolutePath().resolveSibling(settings.get("BUS_KAFKA__CA_FILE"));
        http = HttpClient.newBuilder().sslContext(trusted()).build();
    }

    private void read(String file, List<String> kinds) throws Exception {
        String agreement = Path.of(file).getFileName().toString().replaceAll("\\.env$", "");
        String prefix = settings.get("BUS_TOPIC_PREFIX") + ".vendor." + agreement + ".";
        String login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
                + " username=\"" + settings.get("BUS_KAFKA__SASL_USERNAME") + "\""
                + " password=\"" + settings.get("BUS_KAFKA__SASL_PASSWORD") + "\";";
        Map<String, Object> options = Map.of(
                "bootstrap.servers", settings.get("BUS_KAFKA__BOOTSTRAP"),
                "security.protocol", "SASL_SSL",
                "sasl.mechanism", "SCRAM-SHA-512",
                "sasl.jaas.config", login,
                "ssl.truststore.type", "PEM",
                "ssl.truststore.location", ca.toString(),
                "group.id", prefix + "reader-java",
                "auto.offset.reset", "earliest",
                "isolation.level", "read_committed");
        try (var consumer = new KafkaConsumer<>(
                options, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(kinds.stream().map(prefix::concat).toList());
            long last = System.nanoTime();
            boolean joined = false;
            while (System.nanoTime() - last < IDLE.toNanos()) {
                var messages = consumer.poll(Duration.ofMillis(200));
                if (!messages.isEmpty() || joined == consumer.assignment().isEmpty()) {
                    joined = !consumer.assignment().isEmpty();
                    last = System.nanoTime();
                }
                for (ConsumerRecord<String, byte[]> message : messages) {
                    String kind = message.topic().substring(prefix.length());
                    if (message.value() == null) {
                        System.out.println(kind + " " + message.key() + " deleted");
                    } else {
                        System.out.println(kind + " " + decode(message.value()).get("sourcedId"));
                    }
                }
            }
        }
    }

    /** Decodes a value in the Confluent frame: a zero byte, the schema's id, the Avro record. */
    private GenericRecord decode(byte[] value) throws IOException, InterruptedException {
        ByteBuffer frame = ByteBuffer.wrap(value);
        if (frame.get() != 0) {
            throw new IOException("the value is not in the Confluent frame");
        }
        int id = frame.getInt();
        if (!schemas.containsKey(id)) {
            schemas.put(id, fetch(id));
        }
        var decoder = DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, null);
        return new GenericDatumReader<GenericRecord>(schemas.get(id)).read(null, decoder);
    }

    private Schema fetch(int id) throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(
                        URI.create(settings.get("BUS_REGISTRY__URL") + "/schemas/ids/" + id))
                .header("Authorization", "Bearer " + settings.get("BUS_REGISTRY__BEARER_TOKEN"))
                .build();
        var answer = http.send(request, HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            throw new IOException("the gate answered HTTP " + answer.statusCode());
        }
        return new Schema.Parser().parse(text(answer.body()));
    }

    /** Returns the schema in the answer of the gate. Jackson comes with Avro. */
    private static String text(String answer) throws IOException {
        return new ObjectMapper().readTree(answer).get("schema").asText();
    }

    /** Returns a TLS context that trusts the district's authority alone. */
    private SSLContext trusted() throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var pem = Files.newInputStream(ca)) {
            int number = 0;
            for (Certificate one : CertificateFactory.getInstance("X.509").generateCertificates(pem)) {
                store.setCertificateEntry("ca-" + number++, one);
            }
        }
        var managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }
}
