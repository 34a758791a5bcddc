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
# busybox's own tell the first process, which waits for the shell and listens when that is over.
export ENV=/.shrc
for way in poweroff halt reboot; do
    echo "alias $way='$way -f'" >>"$ENV"
done
trap 'poweroff -f' USR2
trap 'halt -f' USR1
trap 'reboot -f' TERM

echo "guest $name: up"
if [ -n "$run" ]; then
    sh -c "$run" </dev/console
    echo "guest $name: exit $?"
    # Setting an attribute waits until everything is out; powering off does not.
    stty echo </dev/console
else
    # In the foreground: what a shell starts in the background ignores Ctrl-C.
    setsid cttyhack sh </dev/console
fi
poweroff -f
