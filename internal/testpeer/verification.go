package testpeer

// Verification is a verification as a client of Element's SDK sees it.
type Verification struct {
	Phase string `json:"phase"` // requested, ready, started, done, cancelled
	Emoji []struct {
		Symbol string `json:"symbol"`
		Name   string `json:"name"`
	} `json:"emoji"`
	Decimals []int  `json:"decimals"`
	Scanned  bool   `json:"scanned"` // the other side scanned the code that is shown here
	Code     string `json:"code"`    // of a cancellation
	Other    string `json:"other"`
	Device   string `json:"device"`
}

// ListenVerifications begins to take requests of others.
func (c *Client) ListenVerifications() {
	c.t.Helper()
	c.do("listenVerifications", nil, nil)
}

// RequestVerification asks a user to verify: in a room, or a device of theirs.
func (c *Client) RequestVerification(user, room, device string) {
	c.t.Helper()
	c.do("requestVerification", map[string]any{"user": user, "room": room, "device": device}, nil)
}

// AcceptVerification accepts the last request.
func (c *Client) AcceptVerification() {
	c.t.Helper()
	c.do("acceptVerification", nil, nil)
}

// StartEmoji chooses emoji.
func (c *Client) StartEmoji() {
	c.t.Helper()
	c.do("startEmoji", nil, nil)
}

// ConfirmEmoji says that the emoji match, MismatchEmoji that they do not.
func (c *Client) ConfirmEmoji() {
	c.t.Helper()
	c.do("confirmEmoji", nil, nil)
}

// MismatchEmoji is described at ConfirmEmoji.
func (c *Client) MismatchEmoji() {
	c.t.Helper()
	c.do("mismatchEmoji", nil, nil)
}

// CancelVerification cancels the last verification.
func (c *Client) CancelVerification() {
	c.t.Helper()
	c.do("cancelVerification", nil, nil)
}

// ShowQR returns the content of the code that the client shows, in base64.
func (c *Client) ShowQR() string {
	c.t.Helper()
	var code string
	c.do("showQR", nil, &code)
	return code
}

// ScanQR scans a code, whose content is in base64.
func (c *Client) ScanQR(code string) {
	c.t.Helper()
	c.do("scanQR", map[string]any{"code": code}, nil)
}

// ConfirmScanned says that the other side has scanned the code.
func (c *Client) ConfirmScanned() {
	c.t.Helper()
	c.do("confirmScanned", nil, nil)
}

// AwaitVerification waits until the properties named, by their JSON names, are so. "emoji" is
// whether there are any.
func (c *Client) AwaitVerification(want map[string]any) Verification {
	c.t.Helper()
	var v Verification
	c.do("awaitVerification", map[string]any{"want": want}, &v)
	return v
}
