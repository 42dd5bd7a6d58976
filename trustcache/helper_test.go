package trustcache

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// signer is an Ed25519 key that depends on its name only.
type signer struct {
	private ed25519.PrivateKey
	public  id.Ed25519
}

func newSigner(name string) signer {
	seed := sha256.Sum256([]byte(name))
	private := ed25519.NewKeyFromSeed(seed[:])
	return signer{private, id.Ed25519(base64.RawStdEncoding.EncodeToString(private[ed25519.SeedSize:]))} // seed, then public key
}

func newCurve(name string) id.Curve25519 {
	seed := sha256.Sum256([]byte("curve " + name))
	private, err := ecdh.X25519().NewPrivateKey(seed[:])
	if err != nil {
		panic(err)
	}
	return id.Curve25519(base64.RawStdEncoding.EncodeToString(private.PublicKey().Bytes()))
}

// fields is a JSON object in the making.
type fields map[string]any

func (f fields) raw() json.RawMessage {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	return b
}

// id returns the device ID the object names, if any.
func (f fields) id() id.DeviceID {
	if s, ok := f["device_id"].(string); ok {
		return id.DeviceID(s)
	}
	device, _ := f["device_id"].(id.DeviceID)
	return device
}

// sign adds a signature under a key ID.
func (f fields) sign(user id.UserID, keyID string, with signer) fields {
	bare := maps.Clone(f)
	delete(bare, "signatures")
	delete(bare, "unsigned")
	msg := bare.raw()
	if err := canonicaljson.Canonicalize(&msg); err != nil {
		panic(err)
	}
	sig := base64.RawStdEncoding.EncodeToString(ed25519.Sign(with.private, msg))
	all, _ := f["signatures"].(map[id.UserID]map[string]string)
	out := make(map[id.UserID]map[string]string)
	for u, sigs := range all {
		out[u] = maps.Clone(sigs)
	}
	if out[user] == nil {
		out[user] = make(map[string]string)
	}
	out[user]["ed25519:"+keyID] = sig
	next := maps.Clone(f)
	next["signatures"] = out
	return next
}

// person is a user with an identity of some generation.
type person struct {
	user                       id.UserID
	master, selfSign, userSign signer
}

func newPerson(user id.UserID, generation string) person {
	n := string(user) + " " + generation
	return person{user, newSigner(n + " master"), newSigner(n + " self"), newSigner(n + " user")}
}

func (p person) masterFields() fields {
	return fields{"user_id": p.user, "usage": []string{"master"}, "keys": fields{"ed25519:" + p.master.public.String(): p.master.public}}
}

func (p person) selfSigningFields() fields {
	return fields{"user_id": p.user, "usage": []string{"self_signing"}, "keys": fields{"ed25519:" + p.selfSign.public.String(): p.selfSign.public}}
}

func (p person) userSigningFields() fields {
	return fields{"user_id": p.user, "usage": []string{"user_signing"}, "keys": fields{"ed25519:" + p.userSign.public.String(): p.userSign.public}}
}

func (p person) bySelf(f fields, with signer) json.RawMessage {
	return f.sign(p.user, with.public.String(), with).raw()
}

// masterSignedBy returns the master key object with a user-signing signature of another.
func (p person) masterSignedBy(by person) json.RawMessage {
	return p.masterFields().sign(by.user, by.userSign.public.String(), by.userSign).raw()
}

func (p person) identity(t testing.TB) Identity {
	t.Helper()
	out, err := ParseIdentity(p.user, p.masterFields().raw(), p.bySelf(p.selfSigningFields(), p.master), p.bySelf(p.userSigningFields(), p.master))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// deviceFields returns a device whose keys depend on seed, signed by itself.
func deviceFields(user id.UserID, device id.DeviceID, seed string) fields {
	key := newSigner(seed)
	return fields{
		"user_id": user, "device_id": device,
		"algorithms": []id.Algorithm{id.AlgorithmOlmV1, id.AlgorithmMegolmV1},
		"keys": fields{
			"ed25519:" + device.String():    key.public,
			"curve25519:" + device.String(): newCurve(seed),
		},
	}.sign(user, device.String(), key)
}

func (p person) device(device id.DeviceID) fields {
	return deviceFields(p.user, device, string(p.user)+" "+device.String())
}

func (p person) signedDevice(device id.DeviceID) fields {
	return p.device(device).sign(p.user, p.selfSign.public.String(), p.selfSign)
}

// server is a homeserver that answers key queries, and a KeyQuerier.
type server struct {
	mu       sync.Mutex
	answer   QueryResult
	queries  [][]id.UserID
	inFlight map[id.UserID]int
	omitted  map[id.UserID]bool // the answers do not list them
	overlap  []id.UserID        // users who were in two queries at once
	// before, when not nil, runs in every query without the lock, before it is answered.
	before func(ctx context.Context, users []id.UserID) error
	// after runs once the answer is made and before it is returned.
	after func(ctx context.Context, users []id.UserID) error
}

func newServer() *server {
	return &server{
		answer: QueryResult{
			DeviceKeys: map[id.UserID]map[id.DeviceID]json.RawMessage{}, MasterKeys: map[id.UserID]json.RawMessage{},
			SelfSigningKeys: map[id.UserID]json.RawMessage{}, UserSigningKeys: map[id.UserID]json.RawMessage{},
			Failures: map[string]json.RawMessage{},
		},
		inFlight: map[id.UserID]int{},
	}
}

// publish replaces what the server says of a person.
func (s *server) publish(p person, devices ...fields) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer.MasterKeys[p.user] = p.masterFields().raw()
	s.answer.SelfSigningKeys[p.user] = p.bySelf(p.selfSigningFields(), p.master)
	s.answer.UserSigningKeys[p.user] = p.bySelf(p.userSigningFields(), p.master)
	s.setDevices(p.user, devices)
}

func (s *server) devices(user id.UserID, devices ...fields) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setDevices(user, devices)
}

func (s *server) setDevices(user id.UserID, devices []fields) {
	s.answer.DeviceKeys[user] = map[id.DeviceID]json.RawMessage{}
	for _, d := range devices {
		s.answer.DeviceKeys[user][d.id()] = d.raw()
	}
}

func (s *server) omit(users ...id.UserID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.omitted = make(map[id.UserID]bool)
	for _, user := range users {
		s.omitted[user] = true
	}
}

func (s *server) edit(f func(*QueryResult)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.answer)
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queries)
}

func (s *server) QueryKeys(ctx context.Context, users []id.UserID) (*QueryResult, error) {
	s.mu.Lock()
	s.queries = append(s.queries, slices.Clone(users))
	for _, u := range users {
		if s.inFlight[u]++; s.inFlight[u] > 1 {
			s.overlap = append(s.overlap, u)
		}
	}
	before, after := s.before, s.after
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, u := range users {
			s.inFlight[u]--
		}
	}()
	if before != nil {
		if err := before(ctx, users); err != nil {
			return nil, err
		}
	}
	out, err := s.reply(users)
	if after != nil {
		if err := after(ctx, users); err != nil {
			return nil, err
		}
	}
	return out, err
}

// reply copies what the server says now.
func (s *server) reply(users []id.UserID) (*QueryResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := newServer().answer
	for _, u := range users {
		if out.DeviceKeys[u] = maps.Clone(s.answer.DeviceKeys[u]); s.omitted[u] {
			delete(out.DeviceKeys, u)
		}
		copyKey(out.MasterKeys, s.answer.MasterKeys, u)
		copyKey(out.SelfSigningKeys, s.answer.SelfSigningKeys, u)
		copyKey(out.UserSigningKeys, s.answer.UserSigningKeys, u)
	}
	out.Failures = maps.Clone(s.answer.Failures)
	return &out, nil
}

func copyKey(to, from map[id.UserID]json.RawMessage, user id.UserID) {
	if v, ok := from[user]; ok {
		to[user] = bytes.Clone(v)
	}
}

// memory is a Store in memory, with the semantics of the real one.
type memory struct {
	mu      sync.Mutex
	users   map[id.UserID]store.User
	devices map[id.UserID]map[id.DeviceID]store.UserDevice
	changes []store.UserChange
	// gone are the distrusted devices that are not shown.
	gone []store.UserDevice
	// fail, when not nil, is returned by Save, which then writes nothing.
	fail error
	// lost, when not nil, is returned by Save although it has written.
	lost error
	// saving, when not nil, runs in Save before it is written, without the lock.
	saving func(*store.Changes)
}

func newMemory() *memory {
	return &memory{users: map[id.UserID]store.User{}, devices: map[id.UserID]map[id.DeviceID]store.UserDevice{}}
}

func (m *memory) Users(_ context.Context, _ *store.Account, users []id.UserID) (map[id.UserID]store.User, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[id.UserID]store.User)
	for _, u := range users {
		if row, ok := m.users[u]; ok {
			out[u] = row
		}
	}
	return out, nil
}

func (m *memory) UserDevices(_ context.Context, _ *store.Account, users []id.UserID) (map[id.UserID][]store.UserDevice, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[id.UserID][]store.UserDevice)
	for _, u := range users {
		for _, d := range m.devices[u] {
			out[u] = append(out[u], d)
		}
	}
	return out, nil
}

func (m *memory) Distrusts(_ context.Context, _ *store.Account, users []id.UserID) (map[id.UserID][]store.UserDevice, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[id.UserID][]store.UserDevice)
	for _, d := range m.gone {
		if slices.Contains(users, d.UserID) {
			out[d.UserID] = append(out[d.UserID], d)
		}
	}
	return out, nil
}

func (m *memory) DeviceExceptions(context.Context, *store.Account) ([]store.UserDevice, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.Clone(m.gone)
	for _, devices := range m.devices {
		for _, d := range devices {
			if d.Override != nil {
				out = append(out, d)
			}
		}
	}
	slices.SortFunc(out, func(a, b store.UserDevice) int {
		return slices.Compare([]string{a.UserID.String(), a.DeviceID.String()}, []string{b.UserID.String(), b.DeviceID.String()})
	})
	return out, nil
}

func (m *memory) TrackedUsers(context.Context, *store.Account) ([]id.UserID, error) {
	return m.list(func(u store.User) bool { return u.Tracked }), nil
}

func (m *memory) OutdatedUsers(context.Context, *store.Account) ([]id.UserID, error) {
	return m.list(func(u store.User) bool { return u.Tracked && u.Outdated }), nil
}

func (m *memory) UserChanges(_ context.Context, _ *store.Account, user id.UserID) ([]store.UserChange, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []store.UserChange
	for _, c := range m.changes {
		if c.UserID == user {
			out = append(out, c)
		}
	}
	return out, nil
}

func (m *memory) list(want func(store.User) bool) []id.UserID {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []id.UserID
	for u, row := range m.users {
		if want(row) {
			out = append(out, u)
		}
	}
	slices.Sort(out)
	return out
}

func (m *memory) Save(ctx context.Context, _ *store.Account, _ int64, ch *store.Changes) error {
	if m.saving != nil {
		m.saving(ch)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, ref := range ch.DeleteDevices {
		delete(m.devices[ref.UserID], ref.DeviceID)
	}
	for _, ref := range slices.Concat(ch.DeleteDistrusts, ch.Distrusts) { // of these each is there once
		m.gone = slices.DeleteFunc(m.gone, func(d store.UserDevice) bool {
			return d.UserID == ref.UserID && d.DeviceID == ref.DeviceID && d.Ed25519 == ref.Ed25519 && d.Curve25519 == ref.Curve25519
		})
	}
	m.gone = append(m.gone, ch.Distrusts...)
	for _, row := range ch.Users {
		m.users[row.UserID] = row
	}
	for _, d := range ch.UserDevices {
		if m.devices[d.UserID] == nil {
			m.devices[d.UserID] = map[id.DeviceID]store.UserDevice{}
		}
		m.devices[d.UserID][d.DeviceID] = d
	}
	for _, u := range ch.OutdatedUsers {
		if row, ok := m.users[u]; ok && row.Tracked {
			row.Outdated, row.Failures, row.RetryAt = true, 0, time.Time{}
			m.users[u] = row
		}
	}
	for _, u := range ch.LeftUsers {
		if row, ok := m.users[u]; ok {
			row.Outdated, row.Tracked = true, false
			m.users[u] = row
		}
	}
	m.changes = append(m.changes, ch.UserChanges...)
	return m.lost
}

func (m *memory) row(user id.UserID) store.User {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.users[user]
}

func (m *memory) kinds(user id.UserID) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, c := range m.changes {
		if c.UserID == user {
			out = append(out, c.Kind)
		}
	}
	return out
}
