package roomevents

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/trustcache"
)

// The organisation's rules are asked about what would be shown, and nothing else.

// roomsAtOnce is how many rooms are looked at for the rules at the same time.
const roomsAtOnce = 8

// lookAtRooms finds out what the rules ask of the rooms that messages are from, once for each
// room, for a bounded time. Messages of rooms of which it cannot be found out now are opened
// again later, as those are whose keys could not be loaded.
func (r *Reader) lookAtRooms(ctx context.Context, jobs []*eventJob, by *judgement) {
	if !by.rules.Needs(rules.ShowMessage).Any() {
		return
	}
	of := make(map[id.RoomID][]*roomkeys.Event)
	for _, job := range jobs {
		if job != nil && job.Payload != nil && job.Err == nil {
			of[job.room] = append(of[job.room], &job.Event)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, learnWait)
	defer cancel()
	by.rooms = make(map[id.RoomID]*rules.Room, len(of))
	var mu sync.Mutex // guards by.rooms
	var looks errgroup.Group
	looks.SetLimit(roomsAtOnce)
	for room, events := range of {
		looks.Go(func() error {
			var known *rules.Room
			err := r.Env.Survive(func() (err error) {
				known, err = r.rooms.Facts(ctx, by.rules, room, rules.ShowMessage)
				return err
			})
			if err != nil {
				r.inbound.Fail(events, err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			by.rooms[room] = known
			return nil
		})
	}
	_ = looks.Wait() // they return no error
}

// roomOf returns what is known of an event's room.
func (j *judgement) roomOf(room id.RoomID) *rules.Room {
	if known := j.rooms[room]; known != nil {
		return known
	}
	return &rules.Room{ID: room}
}

// narrowed returns the verdict on a message that would be shown, after the rules were asked.
func (r *Reader) narrowed(verdict trustcache.Verdict, in *trustcache.JudgeInput, job *eventJob, by *judgement) trustcache.Verdict {
	if !by.rules.Any() || verdict.Deliver == trustcache.DeliverWithheld {
		return verdict
	}
	q := orgrules.MessageQuestion(in, by.roomOf(job.room))
	return ruled(verdict, by.ask(&q))
}

// narrowedClear is narrowed for a message in clear.
func (r *Reader) narrowedClear(verdict trustcache.Verdict, job *eventJob, by *judgement) trustcache.Verdict {
	if !by.rules.Any() || verdict.Deliver == trustcache.DeliverWithheld {
		return verdict
	}
	q := orgrules.ClearQuestion(r.Account.User, job.Sender, by.roomOf(job.room))
	return ruled(verdict, by.ask(&q))
}

func ruled(verdict trustcache.Verdict, answer rules.Answer) trustcache.Verdict {
	if answer.Effect == rules.Allow {
		return verdict
	}
	return verdict.Denied(answer.Reason)
}
