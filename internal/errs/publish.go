package errs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/batch"
)

// OfPublish turns an error of a Batcher into one for the caller of Publish. The
// function health returns why a publisher has no link, or nil.
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

// InPart returns the error of a call that failed with err for some of its packets
// while others were taken.
func InPart(err error) error {
	if errors.Is(err, Unknown) {
		return err
	}
	return fmt.Errorf("%w: part of the packets: %w", Unknown, err)
}

// Join joins errors, and drops repeated texts: partitions mostly fail together. If
// one of the errors is Unknown, so is the result.
func Join(all []error) error {
	var different []error
	for _, err := range all {
		if err != nil && !slices.ContainsFunc(different, func(e error) bool { return e.Error() == err.Error() }) {
			different = append(different, err)
		}
	}
	return errors.Join(different...)
}
