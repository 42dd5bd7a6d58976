package jsonscan

// Slow makes scans take the slow way only, which is the reference of the quick one.
func (o Options) Slow() Options {
	o.slow = true
	return o
}
