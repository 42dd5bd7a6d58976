// Package compose has the tests of docker-compose.yml for machines without a container engine:
// the file is read as Docker Compose does, and the programs that it names are started with the
// environment and the arguments that it gives them.
//
// It promises that a conversation is held with what the file says: where only the addresses
// and folders differ, because there is one machine and no container. It must never start
// something that the file does not name. Nobody imports it.
package compose
