package e2ee

// maxIDLength bounds what the network may name something by, in bytes (spec appendices,
// common identifier format). The store refuses longer names, and with them whole batches.
const maxIDLength = 255
