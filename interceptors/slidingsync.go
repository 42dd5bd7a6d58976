package interceptors

import "e2ee-proxy/interceptors/apierr"

// Sliding sync: POST v4/sync (MSC4186), and org.matrix.simplified_msc3575/sync, by which
// servers have it today. Its answers are not decrypted, so it is for devices whose clients
// encrypt: with keys of their own, or before it is decided who has the keys, because such a
// client begins to sync while it uploads them. For everybody else it does not exist, and
// clients use /sync.

// slidingSync handles [SlidingSync].
func slidingSync(x *Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	if !dev.ClientMayEncrypt() {
		return apierr.NotImplemented("The proxy encrypts for this device, and has no sliding sync for it. Use /sync.")
	}
	return x.Upstream.Forward(x)
}
