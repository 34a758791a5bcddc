#!/bin/busybox sh
# The guests' first process. Words of the kernel command line it knows:
#   fermata.name=NAME  the guest's name, for its banner and prompt
#   fermata.run=CMD    runs CMD, says how it ended, and powers off; a + stands for a blank
export PATH=/bin HOME=/ TERM=vt100
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

name=linux
run=
for word in $(cat /proc/cmdline); do
    case $word in
        fermata.name=*) name=${word#*=} ;;
        fermata.run=*) run=$(echo "${word#*=}" | tr + ' ') ;;
    esac
done
hostname "$name"
# A serial line has no size of its own.
stty cols 80 rows 24 </dev/console
export PS1="$name# "
# `poweroff`, `halt` and `reboot` tell the first process; it may still be waiting for a shell.
trap 'poweroff -f' USR2
trap 'halt -f' USR1
trap 'reboot -f' TERM

echo "guest $name: up"
if [ -n "$run" ]; then
    sh -c "$run" </dev/console
    echo "guest $name: exit $?"
else
    # In the background, so that a signal is seen at once.
    setsid cttyhack sh </dev/console &
    wait $!
fi
poweroff -f
