package rediscache

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// checkWait bounds the check at the start.
const checkWait = 3 * time.Second

// errNotRedis means that what answers is something else.
var errNotRedis = errors.New("what answers is not a Redis")

// RefusalError means that the settings are wrong: waiting does not help.
type RefusalError struct {
	Err  error
	Hint string
}

// Error returns what is wrong. It has no secret and nothing that the server could choose.
func (r *RefusalError) Error() string { return r.Err.Error() }

func (r *RefusalError) Unwrap() error { return r.Err }

// Check makes every kind of call once. It returns a [*RefusalError] when Redis answers that it will not
// do them, or is something else, and another error when it does not answer.
func (c *Cache) Check(ctx context.Context) error {
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	for _, step := range []struct {
		command string
		try     func(context.Context) error
	}{
		{"PING", func(ctx context.Context) error { return c.client.Ping(ctx).Err() }},
		{"SET", func(ctx context.Context) error { return c.client.Set(ctx, c.probe(), 1, time.Second).Err() }},
		{"SET NX", func(ctx context.Context) error { return c.client.SetNX(ctx, c.probe(), 1, time.Second).Err() }},
		{"GET", func(ctx context.Context) error { return notNil(c.client.Get(ctx, c.probe()).Err()) }},
		{"INCR", func(ctx context.Context) error { return c.client.Incr(ctx, c.probe()).Err() }},
		{"EXPIRE", func(ctx context.Context) error { return c.client.Expire(ctx, c.probe(), time.Second).Err() }},
		{"DEL", func(ctx context.Context) error { return c.client.Del(ctx, c.probe()).Err() }},
		{"PUBLISH", func(ctx context.Context) error { return c.client.Publish(ctx, c.channel(), "").Err() }},
		{"SUBSCRIBE", c.trySubscribe},
	} {
		if err := c.bounded(ctx, step.try); err != nil {
			return c.orOtherwise(ctx, judge(step.command, err))
		}
	}
	return nil
}

// orOtherwise looks whether what does not answer would without TLS, or with it: the one side waits
// for more, the other hangs up.
func (c *Cache) orOtherwise(ctx context.Context, why error) error {
	var refusal *RefusalError
	if errors.As(why, &refusal) || len(c.address.Hosts) == 0 {
		return why
	}
	conn, err := (&net.Dialer{Timeout: c.timeout}).DialContext(ctx, "tcp", c.address.Hosts[0])
	if err != nil {
		return why
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(c.now().Add(c.timeout)); err != nil {
		return why
	}
	if c.address.TLS == nil {
		// Only whether it speaks TLS is of interest, and nothing is sent over it.
		probe := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // as said
		if probe.HandshakeContext(ctx) == nil {
			return &RefusalError{errors.New("what answers speaks TLS, and redis.url does not ask for it"), "write rediss:// instead of redis://"}
		}
		return why
	}
	answer := make([]byte, 1)
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return why
	}
	if _, err := io.ReadFull(conn, answer); err == nil && strings.Contains("+-", string(answer)) {
		return &RefusalError{errors.New("redis.url asks for TLS, and what answers does not speak it"), "write redis:// instead of rediss://"}
	}
	return why
}

func (c *Cache) probe() string { return c.prefix + "check:" + c.self }

func (c *Cache) trySubscribe(ctx context.Context) error {
	sub := c.client.Subscribe(ctx, c.channel())
	defer func() { _ = sub.Close() }()
	_, err := sub.ReceiveTimeout(ctx, c.timeout)
	return err
}

// judge tells what waiting cannot mend from what it can.
func judge(command string, err error) error {
	var (
		said      redis.Error
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		network   net.Error
	)
	switch {
	case errors.As(err, &said):
		return judgeAnswer(command, said.Error())
	case errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid):
		return &RefusalError{fmt.Errorf("the certificate of Redis is not accepted: %w", err), "name the authority's certificate in redis.ca_file, and the host in redis.url as it is in the certificate"}
	case errors.As(err, &record):
		return &RefusalError{errors.New("redis.url asks for TLS, and what answers does not speak it"), "write redis:// instead of rediss://"}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, redis.ErrPoolTimeout):
		return safe(err)
	case errors.Is(err, errNotRedis), strings.Contains(err.Error(), "redis: invalid reply"), strings.Contains(err.Error(), "redis: can't parse"):
		return &RefusalError{errNotRedis, "check host and port in redis.url"}
	default:
		return safe(err)
	}
}

// judgeAnswer is about errors that Redis itself says, by their first word.
func judgeAnswer(command, said string) error {
	word, rest, _ := strings.Cut(said, " ")
	switch word {
	case "WRONGPASS", "NOAUTH":
		return &RefusalError{errors.New("Redis does not accept the user and password"), "set them in redis.url, best through redis.url_file: redis://USER:PASSWORD@HOST:6379"}
	case "NOPERM":
		return &RefusalError{fmt.Errorf("Redis does not allow its user the command %s", command), "docs/gateway.md has the rule for ACL SETUSER"}
	case "MOVED", "ASK", "CROSSSLOT":
		return &RefusalError{errors.New("this is a node of a Redis Cluster"), "write redis+cluster:// instead of redis://"}
	case "ERR":
		switch {
		case strings.Contains(rest, "without any password configured"), strings.Contains(rest, "AUTH"), strings.Contains(rest, "invalid password"):
			return &RefusalError{errors.New("Redis does not accept the user and password"), "set them in redis.url, best through redis.url_file: redis://USER:PASSWORD@HOST:6379"}
		case strings.Contains(rest, "cluster support disabled"):
			return &RefusalError{errors.New("this is not a Redis Cluster"), "write redis:// instead of redis+cluster://"}
		case strings.Contains(rest, "DB index"):
			return &RefusalError{errors.New("Redis has no database of that number"), "leave the number out of redis.url"}
		case strings.Contains(rest, "No such master"):
			return &RefusalError{errors.New("the Sentinels know no master of that name"), "name it in redis.url as sentinel monitor does"}
		}
	}
	return fmt.Errorf("Redis says %.20q to %s", word, command)
}

// safe returns an error that can be logged: without what a server may choose to say.
func safe(err error) error {
	var (
		said    redis.Error
		network net.Error
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &said):
		word, _, _ := strings.Cut(said.Error(), " ")
		return fmt.Errorf("Redis says %.20q", word)
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("no answer from Redis in time")
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, errSilent), errors.Is(err, errTwice), errors.Is(err, errNotRedis), errors.Is(err, context.Canceled):
		return err
	default:
		return fmt.Errorf("the Redis client says %.100q", err.Error())
	}
}
