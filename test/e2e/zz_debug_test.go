package e2e
import ("fmt";"os/exec";"testing")
func dumpTasks(t *testing.T, pid int) {
	out, _ := exec.Command("sh", "-c", fmt.Sprintf("for x in /proc/%d/task/*; do echo $x; grep -E 'State|SigPnd|ShdPnd|Name' $x/status; cat $x/wchan; echo; cat $x/stack; cat $x/syscall; done", pid)).CombinedOutput()
	t.Logf("tasks of %d:\n%s", pid, out)
}
