package checkup

import (
	"testing"

	"e2ee-proxy/e2ee/internal/status"
)

// well is what is found of a device with which everything is in order.
func well() Found {
	s := status.Status{Mode: "proxied"}
	s.Identity.MasterKey, s.Identity.Ours, s.Identity.DeviceSigned = "key", true, true
	s.SecretStorage.Complete = true
	s.Backup.Enabled, s.Backup.Trusted, s.Backup.Readable = true, true, true
	return Found{Status: s, OneTimeKeys: 50}
}

func problem(code string) func(f *Found) {
	return func(f *Found) {
		f.Status.Problems = append(f.Status.Problems, status.Problem{Code: code, Message: "m", Hint: "h"})
	}
}

// Every fault is named at its link, and the other links are not said to be broken.
func TestWalk(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(f *Found)
		link   string
		want   State
	}{
		"nothing":                            {func(*Found) {}, "", OK},
		"keys of another client":             {problem("device_has_own_keys"), Device, Careful},
		"keys lost":                          {problem("keys_lost"), Device, Broken},
		"keys replaced":                      {problem("keys_replaced"), Device, Broken},
		"setting up":                         {problem("setting_up"), Device, Careful},
		"no identity":                        {problem("no_identity"), Identity, Broken},
		"not signed":                         {problem("device_not_signed"), Signature, Broken},
		"signature not shown":                {problem("signature_not_shown"), Signature, Broken},
		"storage missing":                    {problem("secret_storage_missing"), Storage, Careful},
		"backup of another identity":         {problem("backup_broken"), Backup, Careful},
		"own devices":                        {problem("other_devices_not_signed"), OwnDevices, Careful},
		"dead keys":                          {problem("keys_being_replaced"), OneTimeKeys, Careful},
		"padded key IDs":                     {func(f *Found) { f.OddKeys = []string{"master"} }, KeyIDs, Broken},
		"no one-time keys":                   {func(f *Found) { f.OneTimeKeys = 0 }, OneTimeKeys, Careful},
		"one-time keys not counted":          {func(f *Found) { f.CountTrouble = "no" }, OneTimeKeys, Unknown},
		"sync":                               {func(f *Found) { f.SyncTrouble = "no" }, Sync, Broken},
		"token":                              {func(f *Found) { f.TokenTrouble = "no" }, Token, Broken},
		"talk":                               {func(f *Found) { f.Talk = &Talked{Step: "send it", Trouble: "no"} }, Talk, Broken},
		"identity not read":                  {func(f *Found) { f.Status.Identity.MasterKey = "" }, Identity, Unknown},
		"signature not read":                 {func(f *Found) { f.Status.Identity.DeviceSigned = false }, Signature, Unknown},
		"storage not read":                   {func(f *Found) { f.Status.SecretStorage.Complete = false }, Storage, Unknown},
		"backup not read":                    {func(f *Found) { f.Status.Backup.Trusted = false }, Backup, Unknown},
		"own devices not read":               {problem("unreadable"), OwnDevices, Unknown},
		"a device of which nothing is known": {func(f *Found) { f.Status.Mode = "unknown" }, Device, Unknown},
	} {
		f := well()
		test.change(&f)
		for _, l := range Walk(&f) {
			switch {
			case l.Name == test.link && l.State != test.want:
				t.Errorf("%s: %s is %s", name, l.Name, l.State)
			case l.Name != test.link && (l.State == Broken || l.State == Careful):
				t.Errorf("%s: %s is %s too", name, l.Name, l.State)
			case l.Message == "", (l.State == Broken || l.State == Careful) && (l.Why == "" || l.Hint == ""):
				t.Errorf("%s: %s says too little: %+v", name, l.Name, l)
			}
		}
	}
}

// A backup that its owner switched off is no fault.
func TestBackupThatIsOff(t *testing.T) {
	t.Parallel()
	f := well()
	f.Status.Backup = status.Backup{}
	for _, l := range Walk(&f) {
		if l.Name == Backup && l.State != OK {
			t.Errorf("it is %+v", l)
		}
	}
}
