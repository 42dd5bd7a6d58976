package files

import (
	"context"
	"crypto/hmac"
	"encoding/binary"
	"time"

	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/store"
)

// Links, for clients that send no token with downloads (media.links). The URI that such a
// client is shown says by itself who was shown it: the device, the file, and until when that
// holds, with a keyed hash over all of it. So a guess is refused without asking the database,
// and whoever has the link has the file while it holds, and while the device is logged in.

const (
	linkVersion = 1
	linkMAC     = 24 // bytes
	// linkDay is the grain of a link's end, so that the same file has the same link all day;
	// linkDays is after how many it ends, the first one counted from its begin.
	linkDay  = 24 * time.Hour
	linkDays = 2
)

// Link is what a link says.
type Link struct {
	// Account and Device are the rows of who was shown it.
	Account, Device int64
	// URI is by what the account knows the file.
	URI string
	// End is from when on it is worth nothing.
	End time.Time
}

// link returns the URI by which a device is shown a file, which is the account's own unless
// the account has links.
func (a *Account) link(device int64, uri string) string {
	server, mediaID, ok := attachment.SplitURI(uri)
	if !ok || !a.Settings().MediaLinks {
		return uri
	}
	said := []byte{linkVersion}
	for _, n := range [...]int64{a.Env.Now().Unix()/int64(linkDay/time.Second) + linkDays, a.Row.ID, device} {
		said = binary.AppendVarint(said, n)
	}
	said = append(said, mediaID...)
	return attachment.MadeUpURI(server, append(said, macOf(a.Env.Store, server, said)...))
}

func macOf(db *store.DB, server string, said []byte) []byte {
	h := db.Hash("link to a file", append([]byte(server+"\x00"), said...))
	return h[:linkMAC]
}

// ReadLink returns what a link says, also one that has ended; ok is false for everything that
// was not made here.
func ReadLink(db *store.DB, uri string) (l Link, ok bool) {
	server, said, ok := attachment.MadeUpName(uri)
	if !ok || len(said) <= linkMAC || said[0] != linkVersion {
		return Link{}, false
	}
	said, mac := said[:len(said)-linkMAC], said[len(said)-linkMAC:]
	if !hmac.Equal(mac, macOf(db, server, said)) {
		return Link{}, false
	}
	var day int64
	rest := said[1:]
	for _, to := range [...]*int64{&day, &l.Account, &l.Device} {
		n, size := binary.Varint(rest)
		if size <= 0 {
			return Link{}, false
		}
		*to, rest = n, rest[size:]
	}
	l.URI, l.End = "mxc://"+server+"/"+string(rest), time.Unix(day*int64(linkDay/time.Second), 0)
	return l, true
}

// known returns by what the account knows a file that its client names: by a link of its own,
// also one that has ended, or by the URI itself.
func (a *Account) known(uri string) string {
	if l, ok := ReadLink(a.Env.Store, uri); ok && l.Account == a.Row.ID {
		return l.URI
	}
	return uri
}

func (a *Account) allKnown(uris []string) []string {
	all := make([]string, len(uris))
	for i, uri := range uris {
		all[i] = a.known(uri)
	}
	return all
}

// Lookup returns the files with these URIs; those that the account does not know, or that were
// forgotten, are not in the map.
func (a *Account) Lookup(ctx context.Context, uris []string) (map[string]attachment.File, error) {
	rows, err := a.lookup(ctx, a.allKnown(uris))
	if err != nil {
		return nil, err
	}
	all := make(map[string]attachment.File, len(rows))
	for _, uri := range uris {
		if f, ok := rows[a.known(uri)]; ok {
			all[uri] = f
		}
	}
	return all, nil
}
