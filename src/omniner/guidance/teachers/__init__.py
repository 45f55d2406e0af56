"""The kinds of teachers, one module each: its entry (`guidance.teacher.TeacherKind`) holds all that is known of one."""
