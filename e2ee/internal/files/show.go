package files

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"time"

	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/store"
)

// uriFor returns the URI by which an account's clients are shown a file that came in an event.
// It is made of everything that the file is, so that it cannot mean anything else, and
// nobody can guess it.
func (a *Account) uriFor(f *attachment.File) string {
	b := make([]byte, 0, 512)
	for _, part := range [...]string{
		string(a.User), f.URL, string(f.Key.Secret[:]), string(f.Key.Counter[:]), string(f.Key.Hash[:]), f.Type, f.Name,
	} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	h := a.Env.Store.Hash("uri of a file", b)
	clear(b)
	server, _ := f.Place()
	return attachment.MadeUpURI(server, h[:24])
}

// found are the encrypted files of one event, by the URIs that they would be shown with.
type found map[string]attachment.File

// Show puts into contents of decrypted events, for each encrypted file that they name, the URI
// by which the device's client can have it in clear: url instead of file. It stores what is
// new. When it fails nothing has changed.
func (a *Account) Show(ctx context.Context, device int64, contents []*json.RawMessage) error {
	all := make(found)
	for _, c := range contents {
		for _, f := range attachment.In(*c) {
			all[a.uriFor(&f)] = f
		}
	}
	if len(all) == 0 {
		return nil
	}
	shown, err := a.learn(ctx, all)
	if err != nil {
		return err
	}
	for _, c := range contents {
		*c = attachment.Show(*c, func(f *attachment.File) string { return a.link(device, shown[a.uriFor(f)]) })
	}
	return nil
}

// learn returns by which URI each file is shown, and stores what is new: with one query, and one
// write, unless all were seen a short while ago. What the account itself has uploaded is
// shown by the URI that it was given then, as long as it is known.
func (a *Account) learn(ctx context.Context, all found) (map[string]string, error) {
	shown := make(map[string]string, len(all))
	var ask []string
	for uri, f := range all {
		if known, ok := a.seen.get(a.Tenure, uri); ok {
			shown[uri] = known
			continue
		}
		ask = append(ask, uri, f.URL)
	}
	if len(ask) == 0 {
		return shown, nil
	}
	rows, err := a.lookup(ctx, ask)
	if err != nil {
		return nil, err
	}
	var changes store.Changes
	fresh := make(map[string]string)
	for uri, f := range all {
		if shown[uri] != "" {
			continue
		}
		if own, ok := rows[f.URL]; ok && own.URL == f.URL && own.Key == f.Key {
			shown[uri] = f.URL // it may be forgotten at any time, so it is looked up each time
			continue
		}
		fresh[uri] = uri
		if _, ok := rows[uri]; ok {
			continue
		}
		row, err := a.row(uri, &f, time.Time{})
		if err != nil {
			return nil, err
		}
		changes.NewFiles = append(changes.NewFiles, row)
	}
	if err := a.save(ctx, &changes); err != nil {
		return nil, err
	}
	for uri, as := range fresh {
		a.seen.add(a.Tenure, uri, as)
		shown[uri] = as
	}
	return shown, nil
}
