from loopway.training.measurements import WARMUP_STEPS, StepTimer


def test_the_settled_speed_is_that_of_the_median_step_whatever_the_first_and_the_slowest_took() -> None:
    timer = StepTimer()
    assert timer.settled_steps_per_second() is None
    timer.seconds = [30.0] * WARMUP_STEPS + [0.5, 0.25, 0.25, 0.25, 60.0]
    assert timer.settled_steps_per_second() == 4.0


def test_of_a_run_shorter_than_its_warmup_the_last_step_counts() -> None:
    timer = StepTimer()
    timer.seconds = [2.0, 0.5]
    assert timer.settled_steps_per_second() == 2.0
