package interceptors

import (
	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/exchange"
)

// noRoom is a control room that there is not.
type noRoom struct{ exchange.ControlRoom }

func (noRoom) On() bool { return false }

func (*fakeDevice) ControlRoom() exchange.ControlRoom { return noRoom{} }
func (*readDevice) ControlRoom() exchange.ControlRoom { return noRoom{} }

func (*fakeDevice) RestoreStatus() *e2ee.RestoreStatus { return nil }
func (*readDevice) RestoreStatus() *e2ee.RestoreStatus { return nil }
