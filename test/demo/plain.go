package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/internal/testproxy"
)

// plain is bob's client.
type plain struct {
	http tesths.Client
	sent int
}

func login(s *stage, proxy *testproxy.Proxy, a tesths.Account) *plain {
	session, err := proxy.Client().Login(s.ctx, a.UserID, a.Password, "")
	if err != nil {
		s.Fatalf("log in through the proxy: %v", err)
	}
	return &plain{http: proxy.Client().As(session)}
}

func (p *plain) call(s *stage, method, path string, body, result any) {
	if err := p.http.Call(s.ctx, method, "/_matrix/client/v3/"+path, body, result); err != nil {
		s.Fatalf("%v", err)
	}
}

func (p *plain) send(s *stage, room, text string) string {
	p.sent++
	var sent struct {
		EventID string `json:"event_id"`
	}
	path := fmt.Sprintf("rooms/%s/send/m.room.message/%d", url.PathEscape(room), p.sent)
	p.call(s, http.MethodPut, path, map[string]any{"msgtype": "m.text", "body": text}, &sent)
	return sent.EventID
}

// event is what bob's client gets in a sync.
type event struct {
	EventID string `json:"event_id"`
	Type    string `json:"type"`
	Sender  string `json:"sender"`
	Content struct {
		Body string `json:"body"`
	} `json:"content"`
	Unsigned struct {
		Trust trust `json:"dev.e2ee-proxy.trust"`
	} `json:"unsigned"`
}

// trust is the proxy's annotation of an event.
type trust struct {
	Decrypted bool   `json:"decrypted"`
	Color     string `json:"color"`
	Code      string `json:"code"`
}

func (t trust) shield() string {
	if t.Color == "none" {
		return "no shield"
	}
	return "shield " + t.Color + " " + t.Code
}

// await syncs until the event is there in clear.
func (p *plain) await(s *stage, room, id string) event {
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	var found event
	q := url.Values{"timeout": {"5000"}}
	err := testproc.Await(ctx, func(ctx context.Context) error {
		var r struct {
			NextBatch string `json:"next_batch"`
			Rooms     struct {
				Join map[string]struct {
					Timeline struct {
						Events []event `json:"events"`
					} `json:"timeline"`
				} `json:"join"`
			} `json:"rooms"`
		}
		if err := p.http.Call(ctx, http.MethodGet, "/_matrix/client/v3/sync?"+q.Encode(), nil, &r); err != nil {
			return err
		}
		q.Set("since", r.NextBatch)
		for _, e := range r.Rooms.Join[room].Timeline.Events {
			if e.EventID == id && e.Unsigned.Trust.Decrypted {
				found = e
				return nil
			}
		}
		return fmt.Errorf("event %s has not come in clear", id)
	})
	if err != nil {
		s.Fatalf("bob: %v", err)
	}
	return found
}
