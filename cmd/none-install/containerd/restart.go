package containerd

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Service is how the runtime is restarted. It is made while the runtime runs,
// since a process that has ended belongs to no unit any more.
type Service struct {
	timeout time.Duration
	logf    func(format string, args ...any)
	engine  *Engine
	unit    string // of systemd, or
	command []string
	before  process // the runtime as it was
	tried   bool
	hung    bool // the command was given up: systemd may still be at it
}

// Tried says whether a restart was begun.
func (s *Service) Tried() bool { return s.tried }

// Has says whether a runtime serves that has one of the handlers loaded.
func (s *Service) Has(ctx context.Context, handlers []string) bool {
	now, err := s.look(ctx)
	if err != nil {
		return false
	}
	defer now.Close()
	live, err := now.Live(ctx)
	return err == nil && live.Has(handlers) != nil
}

// Service notes which unit the runtime runs in, unless command says how to
// restart it.
func (e *Engine) Service(command string, timeout time.Duration, logf func(string, ...any)) (*Service, error) {
	s := &Service{timeout: timeout, logf: logf, engine: e, before: e.process, command: strings.Fields(command)}
	if len(s.command) > 0 {
		return s, nil
	}
	var err error
	if s.unit, err = e.process.unit(); err != nil {
		return nil, err
	}
	s.command = []string{"systemctl", "restart", s.unit}
	return s, nil
}

// Restart restarts the runtime and waits until another process serves CRI and ok
// is content with it.
func (s *Service) Restart(ctx context.Context, ok func(*LiveConfig) error) error {
	s.tried = true
	s.logf("restarting the runtime: %s", strings.Join(s.command, " "))
	if err := s.run(ctx, s.command...); err != nil {
		return err
	}
	return s.wait(ctx, true, ok)
}

// Recover makes the runtime run after a restart that failed, with the config that
// is on disk now. It reports whether the runtime had to be restarted for that: a
// process that was never stopped still runs with the config from before.
func (s *Service) Recover(ctx context.Context) (restarted bool, err error) {
	if now, err := s.look(ctx); err == nil && now.process == s.before && !s.hung {
		return false, s.take(now)
	}
	s.logf("restarting the runtime: %s", strings.Join(s.command, " "))
	if s.unit != "" {
		// After too many starts, or a failed one, systemd starts a unit no more.
		if err := s.run(ctx, "systemctl", "reset-failed", s.unit); err != nil {
			s.logf("%v", err)
		}
	}
	if err := s.run(ctx, s.command...); err != nil {
		return true, err
	}
	return true, s.wait(ctx, false, func(*LiveConfig) error { return nil })
}

func (s *Service) run(ctx context.Context, command ...string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.WaitDelay = time.Second // a child of its own may keep the pipe open
	if out, err := cmd.CombinedOutput(); err != nil {
		s.hung = s.hung || ctx.Err() != nil
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// look finds the process that serves CRI now.
func (s *Service) look(ctx context.Context) (*Engine, error) {
	now := &Engine{Endpoint: s.engine.Endpoint, Program: s.engine.Program, Config: s.engine.Config}
	var err error
	if now.process.pid, err = listener(now.Endpoint); err != nil {
		return nil, err
	}
	if err := now.identify(); err != nil {
		return nil, err
	}
	return now, now.dial(ctx)
}

// take makes the process that serves now the engine's.
func (s *Service) take(now *Engine) error {
	err := s.engine.Close()
	*s.engine = *now
	return err
}

// wait polls until the runtime answers as it should. With other, it has to be
// another process than before.
func (s *Service) wait(ctx context.Context, other bool, ok func(*LiveConfig) error) error {
	try := func() error {
		now, err := s.look(ctx)
		if err != nil {
			return err
		}
		if other && now.process == s.before {
			err = fmt.Errorf("process %d has not been replaced", s.before.pid)
		}
		var live *LiveConfig
		if err == nil {
			live, err = now.Live(ctx)
		}
		if err == nil && !live.Ready {
			err = errors.New("its condition RuntimeReady is false")
		}
		if err == nil {
			err = ok(live)
		}
		if err != nil {
			now.Close()
			return err
		}
		return s.take(now)
	}
	for deadline := time.Now().Add(s.timeout); ; {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for the runtime: %w", s.timeout, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}
