-- What wrk has measured, in a line: requests, microseconds, the 99th percentile of latency in microseconds, failures.
done = function(summary, latency, requests)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format("measured %d %d %.1f %d\n", summary.requests, summary.duration, latency:percentile(99), failed))
end
