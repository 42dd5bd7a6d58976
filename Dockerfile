# A static binary in an empty image, run by nobody in particular.
#
#   docker build -t e2ee-proxy .
#   docker run -v e2ee-proxy:/data -p 127.0.0.1:8009:8009 e2ee-proxy serve --homeserver https://matrix.example.org

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# -buildvcs=false: the build context has no history.
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='-s -w' -o /out/e2ee-proxy ./cmd/e2ee-proxy \
 && mkdir -m 0700 /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/e2ee-proxy /e2ee-proxy
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
VOLUME /data
# In a container the loopback address reaches nobody; publish the port on the host's.
ENV E2EE_PROXY_DATA=/data \
    E2EE_PROXY_LISTEN=0.0.0.0:8009 \
    E2EE_PROXY_OPS_LISTEN=0.0.0.0:8010
EXPOSE 8009 8010
STOPSIGNAL SIGTERM
# It knows what the environment and E2EE_PROXY_CONFIG set, and nothing of serve's flags.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["/e2ee-proxy", "healthcheck"]
ENTRYPOINT ["/e2ee-proxy"]
CMD ["serve"]
