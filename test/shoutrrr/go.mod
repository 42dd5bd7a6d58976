module e2ee-proxy/test/shoutrrr

go 1.26.0

require github.com/containrrr/shoutrrr v0.8.0
