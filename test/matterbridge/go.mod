module e2ee-proxy/test/matterbridge

go 1.26.0

require github.com/42wim/matterbridge v1.26.0
