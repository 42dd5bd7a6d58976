package ownbackup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"maunium.net/go/mautrix"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// The whole key backup is restored in the background, on request. The request is stored, so
// that the restore begins again after a restart; keys that are stored already count as
// known.
const (
	// restoreBatch is how many keys are stored at a time.
	restoreBatch = 250
	// restorePatience is the timeout for the download of a backup.
	restorePatience = time.Hour
)

// RestoreStatus is the progress of a restore.
type RestoreStatus struct {
	// State is running, done or failed; a failed one is tried again.
	State string `json:"state"`
	// Total is the homeserver's count of keys in the backup; Done of them were read, of
	// which Restored were new and Refused were unusable.
	Total    int `json:"total"`
	Done     int `json:"done"`
	Restored int `json:"restored"`
	Refused  int `json:"refused"`
}

// States of a restore.
const (
	restoreRunning = "running"
	restoreDone    = "done"
	restoreFailed  = "failed"
)

// restoring is guarded by the Device.
type restoring struct {
	running  bool
	status   *RestoreStatus
	next     time.Time // no retry before this
	failures backoff.Pauses
}

// CheckReadable returns ErrNoBackup if there is no backup whose key is here.
func (b *Backup) CheckReadable(ctx context.Context) error {
	target, err := b.target(ctx)
	for again := 1; errors.Is(err, core.ErrMoreToDo) && again <= fetchAgain; again++ {
		// The owner of the backup changed meanwhile, as while a device is set up.
		if err = backoff.Wait(ctx, core.RereadPauses().After(again)); err == nil {
			target, err = b.target(ctx)
		}
	}
	if err != nil {
		return err
	}
	if target == nil || target.Private == nil {
		return core.ErrNoBackup
	}
	return nil
}

// BeginRestore stores that a restore is wanted and starts it at once, also after a failed
// one.
func (b *Backup) BeginRestore(ctx context.Context) error {
	row := store.Secret{Name: identity.OfDevice(identity.SecretRestore, b.Ed25519), Value: secret.Bytes("1"), CreatedAt: b.Env.Now()}
	if err := b.Save(ctx, &store.Changes{Secrets: []store.Secret{row}}); err != nil {
		return fmt.Errorf("store that a restore is wanted: %w", err)
	}
	b.Mu.Lock()
	b.restoring.next = time.Time{}
	b.Mu.Unlock()
	b.startRestore()
	return nil
}

// continueRestore starts a restore that was requested before a restart.
func (b *Backup) continueRestore(ctx context.Context) error {
	_, err := b.Env.Store.Secret(ctx, b.acct.Row, identity.OfDevice(identity.SecretRestore, b.Ed25519))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a restore: %w", err)
	}
	b.startRestore()
	return nil
}

// startRestore starts the restore unless it runs or has just failed.
func (b *Backup) startRestore() {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	r := &b.restoring
	if r.running || b.Ended() || b.Env.Now().Before(r.next) {
		return
	}
	r.running, r.status = true, &RestoreStatus{State: restoreRunning}
	b.Env.WG.Go(func() { b.restoreAll(b.Context) })
}

func (b *Backup) restoreAll(ctx context.Context) {
	err := b.Env.Survive(func() error { return b.restoreHistory(ctx) })
	if err == nil {
		err = b.Save(ctx, &store.Changes{DeleteSecrets: []string{identity.OfDevice(identity.SecretRestore, b.Ed25519)}})
	}
	if err != nil && ctx.Err() == nil {
		b.Env.Log.Warn().Err(err).Msg("The history could not be restored")
	}
	b.Mu.Lock()
	defer b.Mu.Unlock()
	b.restoring.running = false
	b.restoring.status.State = restoreDone
	if err != nil {
		b.restoring.status.State = restoreFailed
		again := core.PauseAfter(err, b.restoring.failures.Next(core.RestorePauses()), core.RestorePauses())
		b.restoring.next = b.Env.Now().Add(again)
		b.host.RetryRestore(again)
		return
	}
	b.restoring.failures.Reset()
}

// RestoreStatus returns a copy of the progress; nil when no restore ran.
func (b *Backup) RestoreStatus() *RestoreStatus {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	if b.restoring.status == nil {
		return nil
	}
	out := *b.restoring.status
	return &out
}

// restoreHistory downloads the backup and stores its keys in batches. Memory does not grow
// with the size of the backup.
func (b *Backup) restoreHistory(ctx context.Context) error {
	target, err := b.target(ctx)
	if err != nil {
		return err
	}
	if target == nil || target.Private == nil {
		return core.ErrNoBackup
	}
	b.Mu.Lock()
	b.restoring.status.Total = target.Count
	b.Mu.Unlock()
	var rows []store.InboundSession
	done, refused := 0, 0
	flush := func() error {
		kept, err := b.host.KeepKept(ctx, rows)
		b.Env.Counts.Restores.Add(float64(kept))
		b.Env.Counts.Refusals.Add(float64(refused))
		b.Mu.Lock()
		defer b.Mu.Unlock()
		s := b.restoring.status
		s.Done, s.Restored, s.Refused = s.Done+done, s.Restored+kept, s.Refused+refused
		rows, done, refused = rows[:0], 0, 0
		return err
	}
	err = b.download(ctx, target.Version, func(ref store.SessionRef, raw json.RawMessage) error {
		done++
		row, err := keybackup.Open(ref, raw, target.Private, target.MACKey)
		if err != nil {
			refused++
		} else {
			row.BackupVersion = target.Version
			rows = append(rows, row)
		}
		if done < restoreBatch {
			return nil
		}
		return flush()
	})
	return errors.Join(err, flush())
}

// download reads all keys of a backup.
func (b *Backup) download(ctx context.Context, version string, each func(store.SessionRef, json.RawMessage) error) error {
	token := b.CurrentToken()
	return b.Env.Homeserver.Stream(ctx, token, wire.Request{
		Op: "download the key backup", Method: http.MethodGet,
		Path:  mautrix.ClientURLPath{"v3", "room_keys", "keys"},
		Query: map[string]string{"version": version}, Patient: restorePatience,
	}, func(body io.Reader) error { return keybackup.Read(body, each) })
}
