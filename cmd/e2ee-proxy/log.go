package main

import (
	"io"
	"sync/atomic"

	"github.com/rs/zerolog"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/terminal"
)

// newLogger makes the one logger of the process, which logs from a level on that can change.
// Everything else gets it through a context; zerolog's global logger is not used anywhere.
func newLogger(w io.Writer, c config.Log, from *logLevel) zerolog.Logger {
	if c.Format == config.LogText || c.Format == config.LogAuto && terminal.Is(w) {
		w = zerolog.ConsoleWriter{Out: w, NoColor: true, TimeFormat: "15:04:05"}
	}
	from.set(c.Level)
	return zerolog.New(w).Level(zerolog.DebugLevel).Sample(from).With().Timestamp().Logger()
}

// logLevel is the least important level that is logged. It is a zerolog.Sampler because every
// logger that was made from the first one has that, and asks before it does anything.
type logLevel struct{ least atomic.Int32 }

// Sample implements zerolog.Sampler.
func (l *logLevel) Sample(of zerolog.Level) bool { return of >= zerolog.Level(l.least.Load()) }

func (l *logLevel) set(to config.LogLevel) { l.least.Store(int32(level(to))) }

func level(l config.LogLevel) zerolog.Level {
	switch l {
	case config.LogDebug:
		return zerolog.DebugLevel
	case config.LogInfo:
		return zerolog.InfoLevel
	case config.LogWarn:
		return zerolog.WarnLevel
	case config.LogError:
		return zerolog.ErrorLevel
	}
	return zerolog.InfoLevel
}
