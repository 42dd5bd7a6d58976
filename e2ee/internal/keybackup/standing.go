package keybackup

// Standing is the state of the account's key backup at the last check.
type Standing int

const (
	// StandingUnknown means that it was not checked yet, or could not be.
	StandingUnknown Standing = iota
	// StandingOff means that the user has switched key backup off (requirement 16.7).
	StandingOff
	// StandingNone means that the account never had a backup here.
	StandingNone
	// StandingDeleted means that our backup was deleted without being switched off.
	StandingDeleted
	// StandingForeign is a backup that is not trusted: nothing is written to it.
	StandingForeign
	// StandingSigned is signed by the account's identity: keys are written to it, but its
	// private key is not here (requirement 16.1).
	StandingSigned
	// StandingOurs is a backup whose private key is here.
	StandingOurs
)
