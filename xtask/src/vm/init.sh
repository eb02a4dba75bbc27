#!/bin/busybox sh
# The whole life of the virtual machine. Everything the host wants to know goes to the serial console, each thing
# between two lines: `@@begin NAME` and `@@end NAME`.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /usr/bin /usr/sbin /sbin
/bin/busybox --install -s /bin
export PATH=/bin TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
ip link set lo up
echo 1 >/proc/sys/net/core/bpf_jit_kallsyms # so that loaded BPF programs can be counted
cd /tmp

section() { # NAME FILE
    echo "@@begin $1"
    cat "$2"
    echo
    echo "@@end $1"
}
programs() { grep -c '\[bpf\]$' /proc/kallsyms; }
until_true() { # TENTHS COMMAND...
    left=$1
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.1
    done
}

echo "@@booted $(uname -r)"

profiler doctor --json >doctor 2>doctor.log
echo "doctor-exit $?" >status
section doctor doctor
section doctor-log doctor.log

mkfifo go
program <go >truth 2>&1 &
program=$!
exec 3>go
until_true 100 grep -q ready truth
until_true 20 sh -c "[ $(programs) -eq 0 ]"
echo "bpf-before $(programs)" >>status

profiler --pid $program --name program --duration 6s --report report --log-level debug >screen 2>log 3>&- &
profiler=$!
until_true 300 wget -q -O /dev/null http://127.0.0.1:7667/-/ready || echo "not-ready 1" >>status
echo "bpf-during $(programs)" >>status
echo go >&3
until_true 300 grep -q mallocs truth
kill -0 $profiler 2>/dev/null || echo "ended-early 1" >>status
wait $profiler
echo "profiler-exit $?" >>status
# With the log statements of the kernel side, the programs are others to the verifier.
profiler --pid $program --once --listen none --log-level trace >/dev/null 2>trace.log 3>&-
echo "trace-exit $?" >>status
for try in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(programs)" -eq 0 ] && break
    sleep 0.2
done
echo "bpf-after $(programs)" >>status

kill -0 $program 2>/dev/null || echo "program-gone 1" >>status
exec 3>&-
wait $program
echo "program-exit $?" >>status
dmesg | grep -E 'BUG:|WARNING:|Oops|general protection|rcu.*stall|segfault|trap ' >complaints

section status status
section truth truth
touch report
section report report
section log log
section trace-log trace.log
section complaints complaints
echo "@@over"
sync
poweroff -f
