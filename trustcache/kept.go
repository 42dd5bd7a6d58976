package trustcache

import (
	"encoding/json"
	"maps"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
)

// answer is what a homeserver answered about one user, as another account may take it. It is
// not changed once made, and nothing of it was checked.
type answer struct {
	user                id.UserID
	devices             map[id.DeviceID]json.RawMessage
	master, selfSigning json.RawMessage
	asked               moment
}

// shareable returns what others may take of an answer about a user; nil if that is nothing. An
// answer without devices may only mean that its asker may not see them. Signatures of others
// on the master key are left out: they say whom the asker has verified.
func shareable(res *QueryResult, user id.UserID, asked moment) *answer {
	devices := res.DeviceKeys[user]
	if len(devices) == 0 {
		return nil
	}
	master, ok := bareMaster(res.MasterKeys[user], user)
	if !ok {
		return nil
	}
	return &answer{user, maps.Clone(devices), master, res.SelfSigningKeys[user], asked}
}

// bareMaster returns a master key object without the signatures of others than its user; false
// if it is no object.
func bareMaster(raw json.RawMessage, user id.UserID) (json.RawMessage, bool) {
	if absent(raw) {
		return nil, true
	}
	foreign := false
	out, err := strictjson.Edit(raw, func(name string, value jsontext.Value) (jsontext.Value, error) {
		if name != "signatures" || value.Kind() != '{' {
			return value, nil
		}
		return strictjson.Edit(value, func(signer string, of jsontext.Value) (jsontext.Value, error) {
			if signer == user.String() {
				return of, nil
			}
			foreign = true
			return nil, nil
		})
	})
	switch {
	case err != nil:
		return nil, false
	case foreign:
		return out, true
	default:
		return raw, true
	}
}

func (w *answer) size() int {
	n := 200 + len(w.user) + len(w.master) + len(w.selfSigning)
	for device, raw := range w.devices {
		n += 100 + len(device) + len(raw)
	}
	return n
}

// keptAnswers are the newest answers by user, in two halves: when the young half is full, or
// as old as an answer may be, the old one is dropped and the young one takes its place.
type keptAnswers struct {
	young, old map[id.UserID]*answer
	size       int // of the young half
	since      moment
}

func (k *keptAnswers) get(user id.UserID) *answer {
	if found := k.young[user]; found != nil {
		return found
	}
	return k.old[user]
}

// add keeps an answer, unless a newer one is kept.
func (k *keptAnswers) add(w *answer, now, oldest moment, limit int) {
	if have := k.get(w.user); have != nil && have.asked >= w.asked {
		return
	}
	n := w.size()
	if n > limit/2 {
		return
	}
	if k.since <= oldest || k.size+n > limit/2 {
		k.old, k.young, k.size, k.since = k.young, nil, 0, now
	}
	if have := k.young[w.user]; have != nil {
		k.size -= have.size()
	}
	put(&k.young, w.user, w)
	k.size += n
}

// reply is what an account's question came to.
type reply struct {
	res QueryResult
	at  map[id.UserID]moment
	err error // why there is nothing of some users
}

func newReply(users int) *reply {
	return &reply{
		res: QueryResult{
			DeviceKeys:      make(map[id.UserID]map[id.DeviceID]json.RawMessage, users),
			MasterKeys:      make(map[id.UserID]json.RawMessage, users),
			SelfSigningKeys: make(map[id.UserID]json.RawMessage, users),
			UserSigningKeys: make(map[id.UserID]json.RawMessage, 1),
			Failures:        make(map[string]json.RawMessage),
			unasked:         make(map[id.UserID]bool),
		},
		at: make(map[id.UserID]moment, users),
	}
}

// take adds what was shared of a user.
func (r *reply) take(w *answer) {
	r.at[w.user] = w.asked
	r.res.DeviceKeys[w.user], r.res.MasterKeys[w.user], r.res.SelfSigningKeys[w.user] = w.devices, w.master, w.selfSigning
}

// takeOwn adds what an account's own query came to.
func (r *reply) takeOwn(q *sharedQuery) {
	for _, own := range q.asked {
		for _, user := range own.users {
			r.at[user] = own.at
			put(&r.res.DeviceKeys, user, own.res.DeviceKeys[user])
			put(&r.res.MasterKeys, user, own.res.MasterKeys[user])
			put(&r.res.SelfSigningKeys, user, own.res.SelfSigningKeys[user])
			put(&r.res.UserSigningKeys, user, own.res.UserSigningKeys[user])
			if own.res.failed(user) {
				r.res.unasked[user] = true
			}
		}
		maps.Copy(r.res.Failures, own.res.Failures)
	}
	for _, user := range q.users {
		if _, answered := r.at[user]; answered {
			continue
		}
		if left := q.answers[user]; left != nil {
			r.take(left)
		} else {
			r.fail(q.err, user)
		}
	}
}

func (r *reply) fail(err error, user id.UserID) {
	r.err = err
	r.res.unasked[user] = true
}
