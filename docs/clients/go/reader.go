// Reader prints the kind and the key of each record that an agreement shares, and of each deletion.
//
//	go run . /secrets/math-app.env student enrollment
//
// It ends when nothing has come for 5 seconds. The program takes the agreement's name from the file's name.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"github.com/twmb/franz-go/pkg/sr"
)

const idle = 5 * time.Second

func main() {
	if err := read(os.Args[1], os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

func read(file string, kinds []string) error {
	settings, err := load(file)
	if err != nil {
		return err
	}
	authorities, err := trusted(filepath.Join(filepath.Dir(file), settings["BUS_KAFKA__CA_FILE"]))
	if err != nil {
		return err
	}
	user := settings["BUS_KAFKA__SASL_USERNAME"]
	agreement := strings.TrimSuffix(filepath.Base(file), ".env")
	prefix := settings["BUS_TOPIC_PREFIX"] + ".vendor." + agreement + "."
	var topics []string
	for _, kind := range kinds {
		topics = append(topics, prefix+kind)
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(settings["BUS_KAFKA__BOOTSTRAP"], ",")...),
		kgo.DialTLSConfig(authorities),
		kgo.SASL(scram.Auth{User: user, Pass: settings["BUS_KAFKA__SASL_PASSWORD"]}.AsSha512Mechanism()),
		kgo.ConsumerGroup(prefix+"reader-go"),
		kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	registry, err := sr.NewClient(
		sr.URLs(settings["BUS_REGISTRY__URL"]),
		sr.BasicAuth(user, settings["BUS_REGISTRY__BEARER_TOKEN"]),
		sr.DialTLSConfig(authorities),
	)
	if err != nil {
		return err
	}
	schemas := map[int]avro.Schema{}
	for {
		wait, cancel := context.WithTimeout(context.Background(), idle)
		fetches := client.PollFetches(wait)
		cancel()
		if errors.Is(fetches.Err0(), context.DeadlineExceeded) {
			return client.CommitUncommittedOffsets(context.Background())
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		for _, message := range fetches.Records() {
			kind := strings.TrimPrefix(message.Topic, prefix)
			if message.Value == nil {
				fmt.Println(kind, string(message.Key), "deleted")
				continue
			}
			record, err := decode(registry, schemas, message.Value)
			if err != nil {
				return err
			}
			fmt.Println(kind, record.SourcedID)
		}
	}
}

// record has the fields that this program uses; others are skipped.
type record struct {
	SourcedID string `avro:"sourcedId"`
}

func decode(registry *sr.Client, schemas map[int]avro.Schema, value []byte) (record, error) {
	var found record
	id, body, err := new(sr.ConfluentHeader).DecodeID(value)
	if err != nil {
		return found, err
	}
	schema, known := schemas[id]
	if !known {
		stored, err := registry.SchemaByID(context.Background(), id)
		if err != nil {
			return found, err
		}
		if schema, err = avro.Parse(stored.Schema); err != nil {
			return found, err
		}
		schemas[id] = schema
	}
	return found, avro.Unmarshal(schema, body, &found)
}

// load returns the settings of a file of credentials.
func load(file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		if name, value, found := strings.Cut(line, "="); found && !strings.HasPrefix(line, "#") {
			settings[name] = value
		}
	}
	return settings, nil
}

// trusted returns a TLS configuration that trusts the district's authority alone.
func trusted(file string) (*tls.Config, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", file)
	}
	return &tls.Config{RootCAs: pool}, nil
}
