package devicekeys

import (
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
)

// A process that had the account before this one may have uploaded one-time keys without
// storing that they are published, or may be stopped just before it uploads them, and do it
// when it goes on. Uploaded by two, a key would be given to two others: the second one's first
// message could not be read. So each process uploads only keys that were made while the account
// was its own. The others are kept, because a message may use them.

// leaveToOthers stages that one-time keys of an earlier owner of the account are not uploaded.
func (k *Supply) leaveToOthers(s *core.Step) {
	now := k.Account.Row.Epoch()
	if now != core.ReadMeta(k.Record.Row.Meta).KeysEpoch && pendingKeys(k.olm.Keys()) > 0 {
		k.olm.ChangeKeys(s).SetAside()
	}
}

// recordEpoch stages who makes the one-time keys that a step stores.
func (k *Supply) recordEpoch(s *core.Step) error {
	now := k.Account.Row.Epoch()
	if !k.olm.KeysChanged(s) || core.ReadMeta(k.Record.Row.Meta).KeysEpoch == now {
		return nil
	}
	return s.ChangeMeta(func(m *core.Meta) { m.KeysEpoch = now })
}

// pendingKeys returns how many one-time keys are to be uploaded.
func pendingKeys(keys *olm.Account) int {
	pending := 0
	for i := range keys.OTKeys {
		if !keys.OTKeys[i].Published {
			pending++
		}
	}
	return pending
}
