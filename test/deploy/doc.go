// Command deploy reads files for running the proxy as the programs do that they are for: a
// Compose file with the library of Docker Compose, and expressions with Prometheus's parser.
// It has a module of its own, so that nothing else needs what those bring along.
//
//	deploy compose FILE [PROFILE…]   prints what the file says, with defaults, as JSON
//	deploy promql <EXPRESSIONS       prints what each line selects, as JSON
//
// It promises to exit with an error for what those programs would refuse. It must never do
// what the files say. Nobody imports it; tests run it.
package main
