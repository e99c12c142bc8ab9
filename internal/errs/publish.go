package errs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/batch"
)

// OfPublish returns what err of a Batcher says to the caller of Publish. The
// function health tells why a publisher has no link, or nil.
func OfPublish(ctx context.Context, err error, health func() error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, batch.ErrTaken) {
		return fmt.Errorf("%w: %w", Unknown, err)
	}
	if err == ctx.Err() {
		if down := health(); down != nil {
			return fmt.Errorf("%w: %w: %w", BusDown, err, down)
		}
	}
	return err
}

// InPart returns err of some packets of a call if others of it have been taken.
func InPart(err error) error {
	if errors.Is(err, Unknown) {
		return err
	}
	return fmt.Errorf("%w: part of the packets: %w", Unknown, err)
}

// Join joins errors, those with the same text once: partitions mostly fail together.
// The outcome is unknown if that of one is.
func Join(all []error) error {
	var different []error
	for _, err := range all {
		if err != nil && !slices.ContainsFunc(different, func(e error) bool { return e.Error() == err.Error() }) {
			different = append(different, err)
		}
	}
	return errors.Join(different...)
}
