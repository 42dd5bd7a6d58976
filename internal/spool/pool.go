package spool

import (
	"slices"
	"sync"
	"time"

	"e2ee-proxy/internal/budget"
)

// poolStep is by how much a body takes more of a pool, in bytes.
const poolStep = 1 << 20

// Pool is memory for bodies that are too large for the heap's and are used soon. It is the system's
// and not the heap's, in one piece for each body, so that it neither moves nor is looked through by
// the collector. There is a fixed amount of it, of which one owner may have half. Memory that has
// been used waits for the next body for a minute, overwritten with zeros, and goes back to the
// system then. Its methods may be called concurrently.
type Pool struct {
	room *budget.Budget
	mu   sync.Mutex
	idle []*piece // the one that waits for longest first
}

// piece is the memory of one body.
type piece struct {
	mem  []byte // as much as a body may have
	used int64  // from its start, what the system has given out for it and is taken from the budget
	end  *time.Timer
}

// NewPool returns a pool of so many bytes; nil if that is not enough for anything, or if the system
// has no such memory.
func NewPool(size int64) *Pool {
	if size < 2*poolStep {
		return nil
	}
	probe, err := mapMemory(poolStep)
	if err != nil {
		return nil
	}
	unmap(probe)
	p := &Pool{room: budget.New(size, size/2)}
	p.room.OnSpent(func(owner string) bool { return owner == nobody && p.drop() })
	return p
}

// get returns memory with room for n bytes, which is taken in the name of the owner; nil if there is
// none.
func (p *Pool) get(owner string, n int64) *piece {
	if p == nil || n > p.room.Share() {
		return nil
	}
	m := p.waiting(owner, n)
	if m == nil {
		mem, err := mapMemory(p.room.Share())
		if err != nil {
			return nil
		}
		m = &piece{mem: mem}
	}
	if !p.grow(owner, m, n) {
		p.put(owner, m, 0)
		return nil
	}
	return m
}

// waiting returns memory that waits: the smallest that is large enough for a body, else the largest.
func (p *Pool) waiting(owner string, body int64) *piece {
	p.mu.Lock()
	defer p.mu.Unlock()
	best := -1
	for i, m := range p.idle {
		if best < 0 {
			best = i
			continue
		}
		switch has := p.idle[best].used; {
		case has < body && m.used > has, m.used >= body && m.used < has:
			best = i
		}
	}
	if best < 0 || !p.room.Pass(nobody, owner, p.idle[best].used) {
		return nil
	}
	m := p.idle[best]
	m.end.Stop()
	p.idle = slices.Delete(p.idle, best, best+1)
	return m
}

// grow makes room for n bytes in all, and reports whether there is so much.
func (p *Pool) grow(owner string, m *piece, n int64) bool {
	if n <= m.used {
		return true
	}
	size := int64(len(m.mem))
	if n > size {
		return false
	}
	more := min((n+poolStep-1)/poolStep*poolStep, size) - m.used
	if p.room.Take(owner, more) != nil {
		return false
	}
	m.used += more
	return true
}

// put takes memory back in which n bytes were written.
func (p *Pool) put(owner string, m *piece, n int64) {
	clear(m.mem[:n])
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.used == 0 || !p.room.Pass(owner, nobody, m.used) {
		p.room.Release(owner, m.used)
		unmap(m.mem)
		return
	}
	m.end = time.AfterFunc(unusedFor, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if i := slices.Index(p.idle, m); i >= 0 {
			p.remove(i)
		}
	})
	p.idle = append(p.idle, m)
}

// drop gives memory that waits back to the system, and reports whether there was any.
func (p *Pool) drop() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return false
	}
	p.remove(0)
	return true
}

// remove gives back memory that waits; p.mu is held.
func (p *Pool) remove(i int) {
	m := p.idle[i]
	m.end.Stop()
	p.idle = slices.Delete(p.idle, i, i+1)
	p.room.Release(nobody, m.used)
	unmap(m.mem)
}

// Taken returns how much of the pool is in use or waits, in bytes.
func (p *Pool) Taken() int64 {
	if p == nil {
		return 0
	}
	return p.room.Taken()
}
