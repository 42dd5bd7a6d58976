package main

import (
	"io"

	"github.com/rs/zerolog"

	"e2ee-proxy/config"
)

// newLogger makes the one logger of the process. Everything else gets it through a context;
// zerolog's global logger is not used anywhere.
func newLogger(w io.Writer, c config.Log) zerolog.Logger {
	if c.Format == config.LogText {
		w = zerolog.ConsoleWriter{Out: w, NoColor: true, TimeFormat: "15:04:05"}
	}
	return zerolog.New(w).Level(level(c.Level)).With().Timestamp().Logger()
}

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
