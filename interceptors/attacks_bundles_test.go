package interceptors

import (
	"maps"
	"testing"

	"e2ee-proxy/interceptors/internal/rewrite"
)

// object is an object of an event.
type object = map[string]any

// and returns an object with other members.
func and(o object, more ...object) object {
	out := maps.Clone(o)
	for _, m := range more {
		maps.Copy(out, m)
	}
	return out
}

func related(relation, to string) object {
	return object{"m.relates_to": object{"rel_type": relation, "event_id": to}}
}

// cipherEvent returns an encrypted event by bob, whose clear content this is, and whose
// relation is in clear.
func cipherEvent(id, typ string, content, relation object) object {
	return object{
		"type": "m.room.encrypted", "event_id": id, "sender": bob, "room_id": encryptedRoom, "origin_server_ts": 1,
		"content": and(object{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": object{"type": typ, "content": content}}, relation),
	}
}

func clearEvent(id, typ string, content object) object {
	return object{"type": typ, "event_id": id, "sender": bob, "room_id": encryptedRoom, "content": content}
}

// newText is the content of an edit.
func newText(text string) object {
	return object{"msgtype": "m.text", "body": "* " + text, "m.new_content": object{"msgtype": "m.text", "body": text}}
}

// bundling returns an encrypted message with relations that the homeserver bundles.
func bundling(relations object) object {
	return and(cipherEvent("$e", "m.room.message", object{"body": "KEPT said"}, nil), object{"unsigned": object{"m.relations": relations}})
}

// Requirement 19.3 and attack A24: a homeserver says that a message was edited. The client shows
// the edit in its place, so whatever counts as one speaks for the author. At every place of every
// endpoint an edit counts only if it is encrypted as the message is, by its sender, in its room,
// of its type, and says itself that it is one of this message; what is not leaves with its
// relation, and not a word of it is shown.
func TestInventedEditsAreDropped(t *testing.T) {
	t.Parallel()
	valid := cipherEvent("$edit", "m.room.message", newText("FORGED"), related("m.replace", "$e"))
	clearEdit := clearEvent("$edit", "m.room.message", and(newText("FORGED"), related("m.replace", "$e")))
	replace := func(event object) object { return bundling(object{"m.replace": event}) }
	deep := clearEdit
	for range 6 { // an edit at the end of a chain that nobody follows
		deep = and(cipherEvent("$t", "m.room.message", object{"body": "x"}, related("m.thread", "$e")), object{"unsigned": object{"m.relations": object{"m.replace": deep}}})
		deep = object{"type": "m.room.encrypted", "event_id": "$e", "sender": bob, "content": object{"ciphertext": "x", "m.relates_to": object{"rel_type": "m.thread", "event_id": "$e"}}, "unsigned": object{"m.relations": object{"m.thread": object{"latest_event": deep}}}}
	}
	everyPlace(t, func(t *testing.T, p *onePlace) {
		kept := cipherEvent("$edit", "m.room.message", newText("KEPT edit"), related("m.replace", "$e"))
		if got := p.show(t, replace(kept)); !holdsText(got, "KEPT edit") || !holdsText(got, "KEPT said") {
			t.Errorf("an edit is lost: %v", got)
		}
		for name, event := range map[string]object{
			"in clear":            replace(clearEdit),
			"another sender's":    replace(and(valid, object{"sender": "@mallory:hs.example"})),
			"another room's":      replace(and(valid, object{"room_id": plainRoom})),
			"of another event":    replace(cipherEvent("$edit", "m.room.message", newText("FORGED"), related("m.replace", "$other"))),
			"of nothing":          replace(cipherEvent("$edit", "m.room.message", newText("FORGED"), nil)),
			"a thread's":          replace(cipherEvent("$edit", "m.room.message", newText("FORGED"), related("m.thread", "$e"))),
			"of another type":     replace(cipherEvent("$edit", "m.sticker", newText("FORGED"), related("m.replace", "$e"))),
			"without new content": replace(cipherEvent("$edit", "m.room.message", object{"body": "FORGED"}, related("m.replace", "$e"))),
			"state":               replace(and(valid, object{"state_key": ""})),
			"itself":              replace(and(valid, object{"event_id": "$e"})),
			"without an ID":       replace(and(valid, object{"event_id": nil})),
			"that nobody can read": replace(and(valid, object{
				"content": and(object{"ciphertext": "lost", "FORGED": 1}, related("m.replace", "$e")),
			})),
			"that is held back": replace(and(valid, object{"content": and(object{"ciphertext": "hidden"}, related("m.replace", "$e")), "FORGED": 1})),
			"behind a thread's": replace(and(clearEdit, object{
				"latest_event": cipherEvent("$t", "m.room.message", object{"body": "x"}, related("m.thread", "$e")),
			})),
			"without a type":           replace(object{"event_id": "$edit", "sender": bob, "content": and(newText("FORGED"), related("m.replace", "$e"))}),
			"by a name of its own":     bundling(object{"org.example.replace": clearEdit}),
			"as the thread":            bundling(object{"m.thread": and(clearEdit, object{"latest_event": cipherEvent("$t", "m.room.message", object{"body": "x"}, related("m.thread", "$e"))})}),
			"of what is an edit":       and(cipherEvent("$e", "m.room.message", newText("KEPT said"), related("m.replace", "$x")), object{"unsigned": object{"m.relations": object{"m.replace": valid}}}),
			"of what nobody can read":  and(bundling(object{"m.replace": valid}), object{"content": object{"ciphertext": "lost", "KEPT said": 1}}),
			"of a message in clear":    and(clearEvent("$e", "m.room.message", object{"body": "KEPT said"}), object{"unsigned": object{"m.relations": object{"m.replace": valid}}}),
			"in clear of one in clear": and(clearEvent("$e", "m.room.message", object{"body": "KEPT said"}), object{"unsigned": object{"m.relations": object{"m.replace": clearEdit}}}),
			"of a reaction":            and(clearEvent("$e", "m.reaction", related("m.annotation", "$x")), object{"KEPT said": 1, "unsigned": object{"m.relations": object{"m.replace": and(clearEdit, object{"type": "m.reaction"})}}}),
			"in a long chain":          and(cipherEvent("$e", "m.room.message", object{"body": "KEPT said"}, nil), object{"unsigned": object{"m.relations": object{"m.thread": object{"latest_event": deep}}}}),
		} {
			if got := p.show(t, event); holdsText(got, "FORGED") || !holdsText(got, "KEPT said") {
				t.Errorf("an edit %s is shown: %v", name, got)
			}
		}
	}, rewrite.Timeline, rewrite.Mixed, rewrite.State)
}

// The same of the other relations: the latest event of a thread is one of this thread, and what
// is referred to is there by its ID, unless it says the same. A message in clear is marked there
// as everywhere.
func TestInventedRelationsAreDropped(t *testing.T) {
	t.Parallel()
	inThread := func(to string) object {
		return cipherEvent("$t", "m.room.message", object{"body": "KEPT or FORGED"}, related("m.thread", to))
	}
	latest := func(event object) object {
		return bundling(object{"m.thread": object{"count": 1, "latest_event": event}})
	}
	refers := func(event object) object { return bundling(object{"m.reference": object{"chunk": []any{event}}}) }
	everyPlace(t, func(t *testing.T, p *onePlace) {
		for name, event := range map[string]object{
			"thread":     latest(inThread("$e")),
			"old thread": bundling(object{"io.element.thread": object{"latest_event": inThread("$e")}}),
			"reference":  refers(cipherEvent("$r", "m.room.message", object{"body": "KEPT or FORGED"}, related("m.reference", "$e"))),
			"unknown":    bundling(object{"org.example": object{"latest_event": cipherEvent("$r", "m.room.message", object{"body": "KEPT or FORGED"}, related("org.example", "$e"))}}),
			"an ID":      refers(object{"event_id": "$r", "KEPT or FORGED": 1}),
			"a count":    bundling(object{"m.annotation": object{"chunk": []any{object{"type": "m.reaction", "key": "KEPT or FORGED", "count": 2}}}}),
		} {
			if got := p.show(t, event); !holdsText(got, "KEPT or FORGED") {
				t.Errorf("%s is lost: %v", name, got)
			}
		}
		for name, event := range map[string]object{
			"of another thread": latest(inThread("$other")),
			"of no thread":      latest(cipherEvent("$t", "m.room.message", object{"body": "KEPT or FORGED"}, nil)),
			"of another room":   latest(and(inThread("$e"), object{"room_id": plainRoom})),
			"itself":            latest(and(inThread("$e"), object{"event_id": "$e"})),
			"encryption":        latest(and(clearEvent("$t", "m.room.encryption", and(object{"x": "KEPT or FORGED"}, related("m.thread", "$e"))), object{"state_key": ""})),
			"no reference":      refers(cipherEvent("$r", "m.room.message", object{"body": "KEPT or FORGED"}, nil)),
			"another's":         refers(cipherEvent("$r", "m.room.message", object{"body": "KEPT or FORGED"}, related("m.reference", "$other"))),
			"without a type":    refers(object{"event_id": "$r", "content": object{"body": "KEPT or FORGED"}}),
			"no count":          bundling(object{"m.annotation": object{"chunk": []any{clearEvent("$x", "m.room.message", nil), object{"type": "m.room.message", "content": object{"ciphertext": "hidden"}}}, "type": "KEPT or FORGED"}}),
		} {
			got := p.show(t, event)
			if holdsText(got, "KEPT or FORGED") || !holdsText(got, "KEPT said") {
				t.Errorf("%s is shown: %v", name, got)
			}
		}
		if got := p.show(t, refers(clearEvent("$r", "m.room.message", object{}))); !holdsText(got, `[{"event_id":"$r"}]`) {
			t.Errorf("the reference is lost: %v", got)
		}
		inClear := latest(clearEvent("$t", "m.room.message", and(object{"body": "in clear"}, related("m.thread", "$e"))))
		if got := p.show(t, inClear); !holdsText(got, "SentInClear") || !holdsText(got, "in clear") {
			t.Errorf("a message in clear is not marked: %v", got)
		}
	}, rewrite.Timeline, rewrite.Mixed, rewrite.State)
}

// A homeserver puts into the events of an answer others that are not judged: a message as the
// event that redacted one, messages and the room's encryption in the stripped state beside an
// invitation. Clients show the one, and some refuse to send once they see the other.
func TestWhatStandsInEventsIsJudged(t *testing.T) {
	t.Parallel()
	encryption := object{"type": "m.room.encryption", "state_key": "", "sender": bob, "content": object{"algorithm": "FORGED"}}
	message := clearEvent("$m", "m.room.message", object{"body": "FORGED"})
	notice := object{"type": "m.room.name", "state_key": "", "sender": "@warnings:e2ee-proxy.invalid", "content": object{"name": "FORGED"}}
	name := object{"type": "m.room.name", "state_key": "", "sender": bob, "content": object{"name": "KEPT name"}, "decrypted": "FORGED"}
	stripped := []any{encryption, notice, name, message, encryption, object{"type": "m.room.encryption", "content": "FORGED"}}
	redaction := clearEvent("$r", "m.room.redaction", object{"reason": "KEPT reason"})
	ban := and(clearEvent("$r", "m.room.member", object{"membership": "ban", "reason": "KEPT reason"}), object{"state_key": "@m:hs.example"})
	everyPlace(t, func(t *testing.T, p *onePlace) {
		member := and(clearEvent("$e", "m.room.member", object{"membership": "invite"}), object{"state_key": alice})
		for _, at := range []string{"invite_room_state", "knock_room_state"} {
			got := p.show(t, and(member, object{"unsigned": object{at: stripped, "age": 1}}))
			if holdsText(got, "FORGED") || !holdsText(got, "KEPT name") {
				t.Errorf("%s is shown as %v", at, got)
			}
		}
		redacted := object{"type": "m.room.topic", "state_key": "", "event_id": "$e", "sender": bob, "room_id": encryptedRoom, "content": object{}}
		for _, reason := range []object{redaction, ban} {
			if got := p.show(t, and(redacted, object{"unsigned": object{"redacted_because": reason}})); !holdsText(got, "KEPT reason") {
				t.Errorf("%v is lost: %v", reason, got)
			}
		}
		for _, reason := range []object{message, encryption, cipherEvent("$m", "m.room.message", object{"body": "FORGED"}, nil), {"content": object{"reason": "FORGED"}}} {
			for _, event := range []object{
				and(redacted, object{"unsigned": object{"redacted_because": reason, "age": 1}}),
				and(redacted, object{"redacted_because": reason}),
			} {
				if got := p.show(t, event); got == nil || holdsText(got, "FORGED") {
					t.Errorf("%v is shown as %v", event, got)
				}
			}
		}
	}, rewrite.Timeline, rewrite.Mixed, rewrite.State, rewrite.Stripped)
}
