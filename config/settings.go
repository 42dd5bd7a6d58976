package config

import (
	"net/netip"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// Config is every setting of the proxy. [Load] makes one; the doc comments below are
// the text of `e2ee-proxy config example` and of docs/configuration.md.
type Config struct {
	// Base URL of the homeserver's Client-Server API, as a client would be given it. Use
	// https unless the homeserver is on this machine or on a network you trust: access
	// tokens travel over it. Required.
	Homeserver URL `yaml:"homeserver"`

	// Address and port for clients. Access tokens arrive here: listen on a loopback
	// address, set tls, or put a server that does TLS in front.
	Listen string `yaml:"listen" kind:"HOST:PORT"`

	// Address and port of /livez, /readyz and /metrics. Needs no token, so it must not
	// be reachable from outside. Empty switches it off.
	OpsListen string `yaml:"ops_listen" kind:"HOST:PORT"`

	// Token with which administrators' calls answer on ops_listen too, as Authorization: Bearer TOKEN
	// (docs/control-api.md); 16 characters or more. Without it they do not exist there.
	OpsToken secret.String `yaml:"ops_token"`

	// User IDs of those who may use administrators' calls, /_e2ee_proxy/v1/admin/…, with their own access
	// tokens: they see all accounts, devices, warnings and exceptions, no key and no message, and
	// end sessions.
	Administrators []id.UserID `yaml:"administrators"`

	// Directory for what the proxy keeps: the SQLite database, the generated master key,
	// and for a moment, encrypted, what is too large for memory: sync responses and files of
	// keys. Created, readable by its owner only, when it does not exist.
	Data string `yaml:"data" kind:"FOLDER"`

	// Path of the socket by which the owner of this process, and the administrator of the machine, use
	// the control API for every account without an access token, as the commands do (docs/control-api.md).
	// Nobody else can open it. Empty: control.sock under the data directory; off: there is none.
	ControlSocket string `yaml:"control_socket" kind:"FILE" unset:"control.sock in the data folder"`

	// URL under which clients reach the proxy. When set, /.well-known/matrix/client and
	// login responses name it instead of the homeserver.
	PublicURL URL `yaml:"public_url"`

	// Pages on which people see how their accounts stand, and mend it (docs/console.md).
	Console Console `yaml:"console"`

	// TLS for clients, with HTTP/1.1 and HTTP/2. Without it the proxy speaks plain HTTP/1.1.
	TLS TLS `yaml:"tls"`

	// Where keys and sessions are stored.
	Database Database `yaml:"database"`

	// The key under which everything secret in the database is sealed.
	MasterKey MasterKey `yaml:"master_key"`

	// Several processes on one PostgreSQL database, as replicas of which any takes any request
	// (docs/gateway.md).
	Cluster Cluster `yaml:"cluster"`

	// A Redis in which replicas keep short-lived answers of the homeserver for each other, sealed.
	// It makes them faster and is never needed (docs/gateway.md).
	Redis Redis `yaml:"redis"`

	// Addresses or networks (10.0.0.0/8) of servers in front of the proxy that may say who the client
	// is. Nobody else is believed.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies"`

	// Where they say so: in X-Forwarded-For, or in Forwarded (RFC 7239). What stands in the
	// other header is the client's own, and is dropped.
	ForwardedHeader ForwardedHeader `yaml:"forwarded_header"`

	// Whether they begin each connection with a header of the PROXY protocol, version 1 or 2,
	// as load balancers do that pass TLS on unopened. Then a connection of theirs without it
	// is closed.
	ListenProxyProtocol bool `yaml:"listen_proxy_protocol"`

	// The way to the homeserver.
	Upstream Upstream `yaml:"upstream"`

	// What one client, or all together, may use.
	Limits Limits `yaml:"limits"`

	// What is logged, to standard error.
	Log Log `yaml:"log"`

	// What happens for an account that has no digital identity (cross-signing keys) yet.
	// automatic: the proxy creates it, with secret storage and key backup, on first use.
	// manual: it waits for POST /_e2ee_proxy/v1/bootstrap. An existing identity is never
	// replaced either way.
	Bootstrap Bootstrap `yaml:"bootstrap"`

	// What holds for every account, unless accounts says otherwise.
	Account AccountDefaults `yaml:"account"`

	// Single accounts, by user ID.
	Accounts map[id.UserID]Account `yaml:"accounts"`

	// What clients are shown.
	Clients Clients `yaml:"clients"`

	// Files and pictures.
	Media Media `yaml:"media"`

	// What is found by searches in encrypted rooms.
	Search Search `yaml:"search"`

	// How strictly the rules for unconfirmed devices and changed identities are applied.
	Policy Policy `yaml:"policy"`

	// The log of who was given keys and secrets, and who was not.
	Audit Audit `yaml:"audit"`

	// What is kept in memory about other users' identities and devices.
	TrustCache TrustCache `yaml:"trust_cache"`
}

// TLS is what clients' connections are protected with.
type TLS struct {
	// File with the certificate (PEM), followed by those that lead to its authority. Both
	// files are looked at every 10 seconds; new connections get what is new in them. If that
	// is wrong, the log says so and what was there before stays in use.
	CertFile string `yaml:"cert_file" kind:"FILE"`

	// File with the certificate's private key (PEM).
	KeyFile string `yaml:"key_file" kind:"FILE"`
}

// Database is where keys and sessions are stored.
type Database struct {
	// postgres://… for PostgreSQL, or sqlite:PATH. Empty: SQLite in e2ee-proxy.db under
	// the data directory. PostgreSQL needs master_key.key to be set.
	URL secret.String `yaml:"url"`
}

// MasterKey is the key under which everything secret in the database is sealed.
type MasterKey struct {
	// 32 random bytes in base64, for example from `openssl rand -base64 32`. Empty: the
	// file master.key under the data directory, generated when there is no database yet.
	// Without this key the database is worthless: back it up, somewhere else.
	Key Key `yaml:"key"`

	// Keys used before, as a list like [{key_file: old.key}]. What they sealed is sealed
	// again under the current key when the proxy starts; then they can go.
	Previous []PreviousKey `yaml:"previous"`
}

// PreviousKey is a master key that was in use before.
type PreviousKey struct {
	// The key, in base64.
	Key Key `yaml:"key"`
}

// Upstream is the way to the homeserver.
type Upstream struct {
	// File with certificates (PEM) to trust for the homeserver, besides the system's.
	CAFile string `yaml:"ca_file" kind:"FILE"`

	// How long making a connection to the homeserver may take.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`

	// How long the homeserver may take to begin an answer that it can give by itself.
	// After that the client gets 504.
	Timeout time.Duration `yaml:"timeout"`

	// The same for what may have to wait for other homeservers, such as joining a room.
	FederationTimeout time.Duration `yaml:"federation_timeout"`

	// The same for a sync, on top of the time that the client wants to wait. The first
	// sync of a large account takes minutes.
	SyncTimeout time.Duration `yaml:"sync_timeout"`
}

// Limits are the limits for one client, or all together.
type Limits struct {
	// Largest media upload. Larger ones get 413 M_TOO_LARGE; the homeserver has a limit of
	// its own.
	Upload Size `yaml:"upload"`

	// Events being sent at the same time. More get 429 M_LIMIT_EXCEEDED, as with all
	// numbers below.
	Sends int `yaml:"sends"`

	// How many of them by one device.
	SendsPerDevice int `yaml:"sends_per_device"`

	// Syncs waiting at the same time.
	Syncs int `yaml:"syncs"`

	// How many of them by one device.
	SyncsPerDevice int `yaml:"syncs_per_device"`

	// Longest wait that a client gets in one sync; a longer one is shortened to it.
	SyncWait time.Duration `yaml:"sync_wait"`

	// Logins and other requests that cost a password check, at the same time.
	Logins int `yaml:"logins"`

	// Media uploads and downloads at the same time.
	Media int `yaml:"media"`

	// Memory for the bodies of requests that the proxy takes apart, of all users together. Each counts
	// with the most that it can need, which is several times its size. What has no room gets 429
	// M_LIMIT_EXCEEDED; what streams through needs none.
	BodyMemory Size `yaml:"body_memory"`

	// How much of it one user may need at the same time; at least 16MiB.
	BodyMemoryPerUser Size `yaml:"body_memory_per_user"`

	// Memory for sync responses, files of keys and account data of more than 512 KiB, of all users together.
	// It is not the heap's, and taken when it is needed; what has not been used for a minute is given back.
	// One user may have half of it, so that a larger response goes to the disk, and so does what finds no
	// room here; with 0 all of them do. The disk is slower: each byte is encrypted, written and read again.
	SpoolMemory Size `yaml:"spool_memory"`

	// Room under the data directory for what is too large for memory, such as large sync responses and
	// files of keys, of all users together. It is encrypted and kept while a request is answered, and
	// encrypted files for five minutes if nothing else needs the room. What has no room gets 429
	// M_LIMIT_EXCEEDED.
	SpoolDisk Size `yaml:"spool_disk"`

	// How much of it one user may take at the same time. A single response that is larger
	// gets 502.
	SpoolDiskPerUser Size `yaml:"spool_disk_per_user"`

	// How long a client may take to send the head of a request.
	HeaderTimeout time.Duration `yaml:"header_timeout"`

	// How long a connection without a request is kept.
	KeepAliveTimeout time.Duration `yaml:"keep_alive_timeout"`

	// How long a body may stand still, in either direction, on the side of the client or
	// of the homeserver.
	IdleTimeout time.Duration `yaml:"idle_timeout"`

	// How long running requests may take to finish after SIGTERM or SIGINT.
	DrainTimeout time.Duration `yaml:"drain_timeout"`
}

// Log configures logging.
type Log struct {
	// debug, info, warn or error.
	Level LogLevel `yaml:"level"`

	// json has one object per line, text is for people, auto is text on a terminal and json elsewhere.
	Format LogFormat `yaml:"format"`
}

// AccountDefaults are the settings for every account.
type AccountDefaults struct {
	// Whether a device must be signed by its owner's digital identity before it may send
	// encrypted messages. Others hide messages of devices that are not, so false only
	// makes sense while trying things out. A device whose owner's identity was reset
	// elsewhere sends nothing before it is recovered, either way, unless policy.send is on
	// warn or off as well.
	RequireCrossSigning Requirement `yaml:"require_cross_signing"`

	// What becomes of requests by the user's other devices for the private keys of the
	// digital identity and of the key backup. answer: they are given to devices that the
	// identity has confirmed, and to no other; so a new login that was confirmed needs no
	// recovery key. ignore: to nobody.
	SecretRequests SecretRequests `yaml:"secret_requests"`
}

// Account holds the settings of one account.
type Account struct {
	// The account's recovery key (secret storage key). With it the proxy's device signs
	// itself and reads the key backup with nobody present.
	RecoveryKey secret.String `yaml:"recovery_key"`

	// The passphrase of the account's secret storage, instead of the recovery key.
	Passphrase secret.String `yaml:"passphrase"`

	// Who acknowledges that another user's digital identity was reset. never: the owner,
	// through the control API; until then encrypted sending to rooms with that user is
	// blocked. automatic: the proxy, for users that this account never verified; meant
	// for bots that nobody watches.
	AcknowledgeUnverifiedChanges Acknowledge `yaml:"acknowledge_unverified_changes"`

	// Whose requests to verify are accepted, and their emoji confirmed, with nobody present. own:
	// those of the user's own devices that the digital identity has confirmed, so that a bot is
	// confirmed from another client of its user alone. Since nobody compared anything, the bot
	// learns nothing by it: it gives that client no secrets and takes none, also not the key of the
	// backup. For those give it recovery_key, or compare emoji once, asked by the bot. Requests of
	// other users are never accepted unseen.
	AutoVerify []AutoVerify `yaml:"auto_verify"`

	// Overrides account.require_cross_signing for this account.
	RequireCrossSigning *Requirement `yaml:"require_cross_signing"`

	// Whether this account's clients are shown the notices that clients.hide_warnings is
	// about, whatever that says. off is for bots that answer everybody.
	Notices *Switch `yaml:"notices"`

	// Overrides media.links for this account.
	MediaLinks *Switch `yaml:"media_links"`
}

// Audit configures the audit log (docs/audit.md).
type Audit struct {
	// Whether the log is written. It is part of the database, and shows by checkpoints that are kept
	// elsewhere whether somebody changed it. What cannot be written into it is not done: a full disk
	// stops the sharing of keys.
	Enabled bool `yaml:"enabled"`

	// How long the log's records are kept, up to a day longer; 0s: for ever. Their hashes
	// stay, so that what is left can still be checked.
	Keep time.Duration `yaml:"keep"`
}

// TrustCache configures what is kept in memory about other users.
type TrustCache struct {
	// Users kept in memory, with their identities and devices, for all accounts together: a
	// few kilobytes each. Of the others the database is asked.
	Users int `yaml:"users"`
}
