package liar

import (
	"maps"
	"net/http"
	"strings"
)

func signingRoutes() []route {
	return []route{
		on("POST", "keys/device_signing/upload", uploadCrossSigning),
		on("POST", "keys/signatures/upload", uploadSignatures),
	}
}

func uploadCrossSigning(s *Server, c *call) Reply {
	b := body[struct {
		Master      map[string]any `json:"master_key"`
		SelfSigning map[string]any `json:"self_signing_key"`
		UserSigning map[string]any `json:"user_signing_key"`
	}](c)
	if c.user.crossSigning["master"] != nil || s.uiaForFirstKeys {
		if reply, ok := s.authenticate(c); !ok {
			return reply
		}
	}
	for name, key := range map[string]map[string]any{
		"master": b.Master, "self_signing": b.SelfSigning, "user_signing": b.UserSigning,
	} {
		if key != nil {
			c.user.crossSigning[name] = key
		}
	}
	c.user.keysPos = s.bumpPosition()
	return OK(empty)
}

// uploadSignatures adds signatures to what they sign: a device by its ID, an identity
// key by its public key.
func uploadSignatures(s *Server, c *call) Reply {
	failures := map[string]map[string]any{}
	for id, objects := range body[map[string]map[string]map[string]any](c) {
		for name, signed := range objects {
			u := s.users[id]
			target := u.signable(name)
			if target == nil {
				if failures[id] == nil {
					failures[id] = map[string]any{}
				}
				failures[id][name] = map[string]any{"errcode": "M_NOT_FOUND", "error": "Nothing to sign"}
				continue
			}
			addSignatures(target, signed)
			addSignatures(target, u.oldSignatures[name])
			u.keysPos = s.bumpPosition()
		}
	}
	return OK(map[string]any{"failures": failures})
}

func (u *user) signable(name string) map[string]any {
	if u == nil {
		return nil
	}
	if d := u.devices[name]; d != nil {
		return d.keys
	}
	for _, key := range u.crossSigning {
		keys, _ := key["keys"].(map[string]any)
		if _, ok := keys["ed25519:"+name]; ok {
			return key
		}
	}
	return nil
}

func addSignatures(to, signed map[string]any) {
	into, _ := to["signatures"].(map[string]any)
	if into == nil {
		into = map[string]any{}
		to["signatures"] = into
	}
	from, _ := signed["signatures"].(map[string]any)
	for signer, signatures := range from {
		have, _ := into[signer].(map[string]any)
		if have == nil {
			have = map[string]any{}
			into[signer] = have
		}
		these, _ := signatures.(map[string]any)
		maps.Copy(have, these)
	}
}

// signaturesOfOthers returns an object with the signatures that the device did not make
// itself.
func (d *device) signaturesOfOthers() map[string]any {
	others := map[string]any{}
	addSignatures(others, d.keys)
	all, _ := others["signatures"].(map[string]any)
	for _, by := range all {
		if by, ok := by.(map[string]any); ok {
			delete(by, "ed25519:"+d.id)
		}
	}
	return others
}

// CrossSigningKey returns the public key that the server has published for a user:
// "master", "self_signing" or "user_signing". Empty when there is none.
func (s *Server) CrossSigningKey(userID, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[userID]
	if u == nil {
		return ""
	}
	keys, _ := u.crossSigning[name]["keys"].(map[string]any)
	for id := range keys {
		return strings.TrimPrefix(id, "ed25519:")
	}
	return ""
}

// RemoveIdentity makes the server stop returning a user's cross-signing keys.
func (s *Server) RemoveIdentity(userID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[userID]; u != nil {
		clear(u.crossSigning)
		u.keysPos = s.bumpPosition()
	}
}

// conflict returns the answer when something is not the current version.
func conflict(current string) Reply {
	return Reply{Status: http.StatusForbidden, Body: map[string]any{
		"errcode": "M_WRONG_ROOM_KEYS_VERSION", "error": "Wrong backup version.", "current_version": current,
	}}
}
