package rediscache

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Rules of this file:
//   - Time is cut into intervals, which have one place each. Who tries something takes the first free
//     place of those that begin with the present one, and there are as many as may be tried at once.
//   - A place that is taken is sealed, so that nobody but a replica takes one, and says which it is:
//     one that was kept and is put back later is over by then.
//   - What cannot be read, or taken, refuses nobody: the processes count by themselves too.

// TakePlace counts an attempt under a name for all replicas, of which burst may be made at once and
// then one per interval. It returns how long to wait if there were too many, and counts none then.
// Zero means that Redis does not object; nothing is known if it does not answer.
func (c *Cache) TakePlace(ctx context.Context, kind Kind, name string, burst int, interval time.Duration) (wait time.Duration) {
	if c == nil || burst <= 0 || interval <= 0 {
		return 0
	}
	now := c.now()
	first := now.UnixNano() / int64(interval)
	full := false
	if !c.do(ctx, "place", func(ctx context.Context) error {
		places := make([]string, burst)
		for i := range places {
			places[i] = c.numberedPlace(kind, name, first+int64(i))
		}
		taken, err := c.takenPlaces(ctx, kind, name, first, places)
		if err != nil {
			return err
		}
		full, err = c.takeFirst(ctx, kind, name, first, places, taken, interval)
		return err
	}) || !full {
		return 0
	}
	return time.Unix(0, (first+1)*int64(interval)).Sub(now)
}

// takenPlaces reports which places a replica has taken.
func (c *Cache) takenPlaces(ctx context.Context, kind Kind, name string, first int64, places []string) ([]bool, error) {
	found, taken := make([]*redis.StringCmd, len(places)), make([]bool, len(places))
	pipe := c.client.Pipeline()
	for i, place := range places {
		found[i] = pipe.Get(ctx, place)
	}
	if _, err := pipe.Exec(ctx); notNil(err) != nil {
		return nil, err //nolint:wrapcheck // for the caller in this package, as below
	}
	for i := range found {
		taken[i] = c.isPlace(found[i], kind, name, first+int64(i))
	}
	return taken, nil
}

// takeFirst takes the first place that is free, and reports whether there is none.
func (c *Cache) takeFirst(ctx context.Context, kind Kind, name string, first int64, places []string, taken []bool, interval time.Duration) (full bool, err error) {
	full = true
	for i, place := range places {
		if taken[i] {
			continue
		}
		n := first + int64(i)
		life := time.Unix(0, (n+1)*int64(interval)).Sub(c.now()) + maxSkew
		sealed := c.key.Seal(nil, c.sealedFor("redis place", kind, name, strconv.FormatInt(n, 10)))
		got, err := c.client.SetNX(ctx, place, sealed, life).Result()
		if err != nil || got {
			return false, err //nolint:wrapcheck // as above
		}
		// Another replica was faster, or something that no replica has put there is in the way.
		full = full && c.isPlace(c.client.Get(ctx, place), kind, name, n)
	}
	return full, nil
}

// isPlace reports whether what was found is a place that a replica has taken.
func (c *Cache) isPlace(found *redis.StringCmd, kind Kind, name string, n int64) bool {
	sealed, err := found.Bytes()
	if err != nil {
		return false
	}
	_, err = c.key.Open(sealed, c.sealedFor("redis place", kind, name, strconv.FormatInt(n, 10)))
	return err == nil
}

// numberedPlace returns where in Redis a place is. Its number is not readable: it would tell for which
// name there were attempts at the same time.
func (c *Cache) numberedPlace(kind Kind, name string, n int64) string {
	return c.prefix + string(kind) + ":" + c.name(kind, name+"\x00"+strconv.FormatInt(n, 10)) + ":place"
}
